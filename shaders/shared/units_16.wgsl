// Matrix units of 16 x 16 numbers (Vulkan), staged four numbers at a time.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 16u;
const TILE = 128u; // 8 * SIDE: lines of a tile of operands
const UNIT = 4u;
alias Staged = vec4<f16>;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
