// The tile of a product on matrix units of 8 x 8, and how it is staged.
const TILE = 64u; // 8 * SIDE
const EIGHTHS = 8u; // TILE * 4 over the least number of threads, 4 * 8
const STAGED = 2560u; // TILE * LINE / UNIT
const PATCHES = 256u; // 4 * SIDE * SIDE

fn stage_x(place: u32, eight: Eight) {
    for (var i = 0u; i < 4u; i++) {
        x_tile[place + i] = eight.low[i];
        x_tile[place + 4u + i] = eight.high[i];
    }
}

fn stage_weight(place: u32, eight: Eight) {
    for (var i = 0u; i < 4u; i++) {
        weight_tile[place + i] = eight.low[i];
        weight_tile[place + 4u + i] = eight.high[i];
    }
}
