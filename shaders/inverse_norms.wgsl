// y[row] = 1 / sqrt(sum of squares of row x[row, columns]), and 0 for a row of zeros; one workgroup a row.
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = linear_workgroup(group, groups);
    if (row >= params.rows) {
        return;
    }
    var square = 0.0;
    for (var i = thread; i < params.columns; i += 256u) {
        let value = x[row * params.columns + i];
        square += value * value;
    }
    square = workgroup_sum(thread, square);
    if (thread == 0u) {
        y[row] = select(0.0, 1.0 / sqrt(square), square > 0.0);
    }
}
