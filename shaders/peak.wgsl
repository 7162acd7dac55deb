// Chains of fused multiply-adds in registers, to find out how many a device does in a second: 64 numbers a thread, `rounds` each.
struct Params {
    rounds: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

// The next link of 16 chains.
fn link(sums: mat4x4<f32>, factor: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(sums[0], factor, factor),
        fma(sums[1], factor, factor),
        fma(sums[2], factor, factor),
        fma(sums[3], factor, factor),
    );
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let first = f32(id.x);
    let begin = mat4x4<f32>(vec4<f32>(first), vec4<f32>(first + 1.0), vec4<f32>(first + 2.0), vec4<f32>(first + 3.0));
    var a = begin;
    var b = 2.0 * begin;
    var c = 3.0 * begin;
    var d = 4.0 * begin;
    let factor = vec4<f32>(0.999);
    for (var round = 0u; round < params.rounds; round++) {
        a = link(a, factor);
        b = link(b, factor);
        c = link(c, factor);
        d = link(d, factor);
    }
    // Every result is used, or a compiler would leave the work out.
    let total = (a + b + c + d) * vec4<f32>(1.0);
    y[id.x] = total.x + total.y + total.z + total.w;
}
