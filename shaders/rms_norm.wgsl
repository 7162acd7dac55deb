// y = x / sqrt(mean(x^2) + eps) * weight over runs of `width` consecutive channels, one workgroup a run.
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
struct Params {
    runs: u32,
    width: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let run = linear_workgroup(group, groups);
    if (run >= params.runs) {
        return;
    }
    let start = run * params.width;
    var square = 0.0;
    for (var i = thread; i < params.width; i += 256u) {
        square += x[start + i] * x[start + i];
    }
    let mean_square = workgroup_sum(thread, square) / f32(params.width);
    let scale = 1.0 / sqrt(mean_square + params.eps);
    for (var i = thread; i < params.width; i += 256u) {
        y[start + i] = x[start + i] * scale * weight[i];
    }
}
