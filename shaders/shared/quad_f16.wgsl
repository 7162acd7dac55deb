// Four operands of a product, as f16: half the traffic of memory.
enable f16;
alias Quad = vec4<f16>;
alias Square = mat4x4<f16>;
