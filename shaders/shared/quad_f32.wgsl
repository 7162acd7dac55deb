// Four operands of a product, as f32.
alias Quad = vec4<f32>;
alias Square = mat4x4<f32>;

fn scale_of(token: u32) -> f32 {
    return 1.0;
}
