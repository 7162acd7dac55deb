// Writes four tokens by four outputs of a product; what does not exist is left out.
fn store_square(token: u32, row: u32, sums: mat4x4<f32>) {
    store_quad(token, row, sums[0]);
    store_quad(token + 1u, row, sums[1]);
    store_quad(token + 2u, row, sums[2]);
    store_quad(token + 3u, row, sums[3]);
}

fn store_quad(token: u32, row: u32, sums: vec4<f32>) {
    if (token < params.tokens) {
        let scaled = sums * scale_of(token);
        store(token, row, scaled.x);
        store(token, row + 1u, scaled.y);
        store(token, row + 2u, scaled.z);
        store(token, row + 3u, scaled.w);
    }
}

fn store(token: u32, row: u32, sum: f32) {
    if (row < params.panel_rows) {
        let output = params.first_output + row;
        var value = sum;
        if (params.has_bias != 0u) {
            value += bias[output];
        }
        y[token * params.outputs + output] = value;
    }
}
