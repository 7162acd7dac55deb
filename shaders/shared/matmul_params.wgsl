// Sizes of a matrix product y[tokens, outputs] = x[tokens, inputs] weight[panel_rows, inputs]^T + bias.
struct Params {
    tokens: u32,
    inputs: u32,
    // Rows of this panel of the weight, and where its outputs lie in a row of y.
    panel_rows: u32,
    first_output: u32,
    outputs: u32,
    has_bias: u32,
    // First row of tiles.
    first_row: u32,
}
