// Four staged operands of a product, as f16: half the traffic of workgroup memory. Operands beyond f16's range set overflow[0], which
// the host checks: they are never silently clipped.
enable f16;
alias Quad = vec4<f16>;

@group(0) @binding(5) var<storage, read_write> overflow: array<atomic<u32>>;

fn narrow(quad: vec4<f32>) -> Quad {
    if (any(abs(quad) > vec4<f32>(65504.0))) {
        atomicStore(&overflow[0], 1u);
    }
    return vec4<f16>(quad);
}
