// y[first + i, j] = x[rows[i], picked[j]], all of y's columns. The indices are exact f32 integers.
//#include shared/workgroup.wgsl
struct Params {
    count: u32,
    columns: u32,
    x_columns: u32,
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<f32>;
@group(0) @binding(3) var<storage, read> picked: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = linear_workgroup(group, groups) * 256u + thread;
    if (i < params.count) {
        let index = u32(rows[i / params.columns]) * params.x_columns + u32(picked[i % params.columns]);
        // Only these indices come from a buffer, where the host cannot check them.
        y[params.first * params.columns + i] = x[min(index, arrayLength(&x) - 1u)];
    }
}
