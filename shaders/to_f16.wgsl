// y = x as f16, rounded: activations before they meet weights of f16. Numbers beyond f16's range set overflow[0], which the host
// checks: they are never silently clipped.
enable f16;
//#include shared/workgroup.wgsl
struct Params {
    quads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> overflow: array<atomic<u32>>;

const LARGEST = 65504.0;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = linear_workgroup(group, groups) * 256u + thread;
    if (index < params.quads) {
        let quad = x[index];
        if (any(abs(quad) > vec4<f32>(LARGEST))) {
            atomicStore(&overflow[0], 1u);
        }
        y[index] = vec4<f16>(quad);
    }
}
