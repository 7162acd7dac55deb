// Matrix units of 8 x 8 numbers (Metal, software Vulkan).
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 8u;
const TILE = 64u; // 8 * SIDE
const STAGED = 2560u; // TILE * LINE
const PATCHES = 256u; // 4 * SIDE * SIDE
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
