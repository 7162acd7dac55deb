// How operands are staged for matrix units of 16 x 16, four numbers at a time.

fn stage_left(place: u32, quad: vec4<f16>) {
    left_tile[place / UNIT] = quad;
}

fn stage_right(place: u32, quad: vec4<f16>) {
    right_tile[place / UNIT] = quad;
}
