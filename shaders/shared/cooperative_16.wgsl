// Matrix units of 16 x 16 numbers (Vulkan on NVIDIA, AMD and Intel GPUs).
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 16u;
const TILE = 128u; // 8 * SIDE
const STAGED = 5120u; // TILE * LINE
const PATCHES = 1024u; // 4 * SIDE * SIDE
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
