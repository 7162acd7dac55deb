// How the tiles of a product on matrix units of 16 x 16 are staged.

fn stage_x(place: u32, quad: vec4<f16>) {
    x_tile[place / UNIT] = quad;
}

fn stage_weight(place: u32, quad: vec4<f16>) {
    weight_tile[place / UNIT] = quad;
}
