// How operands are staged for matrix units of 8 x 8, four numbers at a time.

fn stage_left(place: u32, quad: vec4<f16>) {
    left_tile[place] = quad.x;
    left_tile[place + 1u] = quad.y;
    left_tile[place + 2u] = quad.z;
    left_tile[place + 3u] = quad.w;
}

fn stage_right(place: u32, quad: vec4<f16>) {
    right_tile[place] = quad.x;
    right_tile[place + 1u] = quad.y;
    right_tile[place + 2u] = quad.z;
    right_tile[place + 3u] = quad.w;
}
