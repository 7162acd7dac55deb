// Matrices of sums go straight to y. For tokens and outputs that are multiples of SIDE; rows of y then begin at multiples of 16 bytes,
// which such a store needs.

fn prepare(tile: Tile, thread: u32) {}

// Writes one matrix of sums, which begins at a token and a row of the tile.
fn store(sum: Sum, tile: Tile, first_token: u32, first_row: u32, part: Part) {
    let token = tile.token + first_token;
    let row = tile.row + first_row;
    let output = params.first_output + row;
    let place = token * params.outputs + output;
    let stride = params.outputs;
    var result = sum * scales[min(token, params.tokens - 1u) / 16u];
    if (params.has_bias != 0u) {
        // The same biases for every token.
        let none = 0u;
        result = result + coopLoadT<Sum>(&bias[min(output, params.outputs - SIDE)], none);
    }
    if (part.writes && token < params.tokens && row < params.panel_rows) {
        coopStoreT(result, &y[place], stride);
    }
}
