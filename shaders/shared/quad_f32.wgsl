// Four operands of a product, as f32.
alias Quad = vec4<f32>;
alias Square = mat4x4<f32>;
