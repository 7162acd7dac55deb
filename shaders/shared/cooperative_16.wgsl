// Matrix units of 16 x 16 numbers (Vulkan on NVIDIA, AMD and Intel GPUs), staged four numbers at a time.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 16u;
const TILE = 128u; // 8 * SIDE
const EIGHTHS = 4u; // TILE * 4 over the least number of threads, 4 * 32
const STAGED = 1280u; // TILE * LINE / UNIT
const PATCHES = 1024u; // 4 * SIDE * SIDE
const UNIT = 4u;
alias Staged = vec4<f16>;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

fn stage_x(place: u32, low: vec4<f16>, high: vec4<f16>) {
    x_tile[place / UNIT] = low;
    x_tile[place / UNIT + 1u] = high;
}

fn stage_weight(place: u32, low: vec4<f16>, high: vec4<f16>) {
    weight_tile[place / UNIT] = low;
    weight_tile[place / UNIT + 1u] = high;
}
