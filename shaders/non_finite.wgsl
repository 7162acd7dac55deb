// Sets found[0] when any bit pattern of x is NaN or infinite. Bits are compared, not numbers: compilers may assume that
// arithmetic never meets a NaN.
//#include shared/workgroup.wgsl
struct Params {
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<atomic<u32>>;

const EXPONENT = 0x7f800000u;
const PER_THREAD = 16u;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = linear_workgroup(group, groups) * 256u * PER_THREAD + thread;
    var bad = false;
    for (var i = 0u; i < PER_THREAD; i++) {
        let index = first + i * 256u;
        if (index < params.count) {
            bad = bad || (x[index] & EXPONENT) == EXPONENT;
        }
    }
    if (bad) {
        atomicStore(&found[0], 1u);
    }
}
