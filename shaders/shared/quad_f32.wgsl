// Four staged operands of a product, as f32.
alias Quad = vec4<f32>;

fn narrow(quad: vec4<f32>) -> Quad {
    return quad;
}
