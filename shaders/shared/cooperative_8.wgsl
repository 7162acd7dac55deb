// Matrix units of 8 x 8 numbers (Metal, software Vulkan). Metal loads them from memory that is typed as single numbers.
enable f16;
enable wgpu_cooperative_matrix;
const SIDE = 8u;
const TILE = 64u; // 8 * SIDE
const EIGHTHS = 8u; // TILE * 4 over the least number of threads, 4 * 8
const STAGED = 2560u; // TILE * LINE / UNIT
const PATCHES = 256u; // 4 * SIDE * SIDE
const UNIT = 1u;
alias Staged = f16;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

fn stage_x(place: u32, low: vec4<f16>, high: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        x_tile[place + i] = low[i];
        x_tile[place + 4u + i] = high[i];
    }
}

fn stage_weight(place: u32, low: vec4<f16>, high: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        weight_tile[place + i] = low[i];
        weight_tile[place + 4u + i] = high[i];
    }
}
