// How operands are staged for matrix units of 8 x 8, four numbers at a time.

fn stage_left(place: u32, quad: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        left_tile[place + i] = quad[i];
    }
}

fn stage_right(place: u32, quad: vec4<f16>) {
    for (var i = 0u; i < 4u; i++) {
        right_tile[place + i] = quad[i];
    }
}
