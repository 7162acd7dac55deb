// Operands of a product, two and four of them, as f32.
alias Pair = vec2<f32>;
alias Quad = vec4<f32>;
