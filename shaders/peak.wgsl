// Chains of fused multiply-adds in registers, to find out how many a device does in a second: 64 numbers a thread, `rounds` each.
struct Params {
    rounds: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sums: array<vec4<f32>, 16>;
    for (var i = 0u; i < 16u; i++) {
        sums[i] = vec4<f32>(f32(id.x + i));
    }
    let factor = vec4<f32>(0.999);
    for (var round = 0u; round < params.rounds; round++) {
        for (var i = 0u; i < 16u; i++) {
            sums[i] = fma(sums[i], factor, factor);
        }
    }
    var total = vec4<f32>();
    for (var i = 0u; i < 16u; i++) {
        total += sums[i];
    }
    // Every result is used, or a compiler would leave the work out.
    y[id.x] = total.x + total.y + total.z + total.w;
}
