// Matrix units of 8 x 8 numbers (Metal, software Vulkan). Metal loads them from memory that is typed as single numbers.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 8u;
const TILE = 64u; // 8 * SIDE: lines of a tile of operands
const UNIT = 1u;
alias Staged = f16;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
