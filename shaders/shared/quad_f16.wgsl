// Operands of a product, two and four of them, as f16: half the traffic of memory.
enable f16;
alias Pair = vec2<f16>;
alias Quad = vec4<f16>;

// The f16 form of the activations times these is what they were.
@group(0) @binding(5) var<storage, read> scales: array<f32>;

fn scale_of(token: u32) -> f32 {
    return scales[token];
}
