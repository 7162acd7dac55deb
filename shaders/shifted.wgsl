// y[rows, columns] = (x - shift[columns]) * scales[rows]; without `scaled`, only the difference.
//#include shared/workgroup.wgsl
struct Params {
    count: u32,
    columns: u32,
    scaled: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> shift: array<f32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = linear_workgroup(group, groups) * 256u + thread;
    if (i < params.count) {
        var value = x[i] - shift[i % params.columns];
        if (params.scaled != 0u) {
            value *= scales[i / params.columns];
        }
        y[i] = value;
    }
}
