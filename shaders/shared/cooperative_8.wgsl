// The tile of a product on matrix units of 8 x 8, and how it is staged.
const TILE = 64u; // 8 * SIDE

fn stage_x(place: u32, quad: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        x_tile[place + i] = quad[i];
    }
}

fn stage_weight(place: u32, quad: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        weight_tile[place + i] = quad[i];
    }
}
