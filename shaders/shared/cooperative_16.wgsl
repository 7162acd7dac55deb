// The tile of a product on matrix units of 16 x 16, and how it is staged.
const TILE = 128u; // 8 * SIDE
const EIGHTHS = 4u; // TILE * 4 over the least number of threads, 4 * 32
const STAGED = 1280u; // TILE * LINE / UNIT
const PATCHES = 1024u; // 4 * SIDE * SIDE

fn stage_x(place: u32, eight: Eight) {
    x_tile[place / UNIT] = eight.low;
    x_tile[place / UNIT + 1u] = eight.high;
}

fn stage_weight(place: u32, eight: Eight) {
    weight_tile[place / UNIT] = eight.low;
    weight_tile[place / UNIT + 1u] = eight.high;
}
