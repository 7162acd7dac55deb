// Writes four tokens by four outputs of a product; what does not exist is left out.
fn store_square(token: u32, row: u32, sums: mat4x4<f32>) {
    let tokens = min(token + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.tokens - 1u));
    let rows = min(row + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.panel_rows - 1u));
    let biases = vec4<f32>(bias_of(rows.x), bias_of(rows.y), bias_of(rows.z), bias_of(rows.w));
    store_quad(token, row, sums[0] * scale_of(tokens.x) + biases);
    store_quad(token + 1u, row, sums[1] * scale_of(tokens.y) + biases);
    store_quad(token + 2u, row, sums[2] * scale_of(tokens.z) + biases);
    store_quad(token + 3u, row, sums[3] * scale_of(tokens.w) + biases);
}

// Without a bias its buffer holds some number, which does not count.
fn bias_of(row: u32) -> f32 {
    let has_bias = params.has_bias != 0u;
    return select(0.0, bias[select(0u, params.first_output + row, has_bias)], has_bias);
}

fn store_quad(token: u32, row: u32, values: vec4<f32>) {
    if (token < params.tokens) {
        store(token, row, values.x);
        store(token, row + 1u, values.y);
        store(token, row + 2u, values.z);
        store(token, row + 3u, values.w);
    }
}

fn store(token: u32, row: u32, value: f32) {
    if (row < params.panel_rows) {
        y[token * params.outputs + params.first_output + row] = value;
    }
}
