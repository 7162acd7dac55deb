// How the tiles of a product on matrix units of 8 x 8 are staged.

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
