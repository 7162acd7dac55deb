    // The rest of a product on matrix units: its matrices of sums go straight to y. For tokens and outputs that are multiples of SIDE; rows
    // of y then begin at multiples of 16 bytes, which such a store needs.
    store(sums[0], tile, token, row, subgroups);
    store(sums[1], tile, token, row + SIDE, subgroups);
    store(sums[2], tile, token, row + 2u * SIDE, subgroups);
    store(sums[3], tile, token, row + 3u * SIDE, subgroups);
    store(sums[4], tile, token + SIDE, row, subgroups);
    store(sums[5], tile, token + SIDE, row + SIDE, subgroups);
    store(sums[6], tile, token + SIDE, row + 2u * SIDE, subgroups);
    store(sums[7], tile, token + SIDE, row + 3u * SIDE, subgroups);
    store(sums[8], tile, token + 2u * SIDE, row, subgroups);
    store(sums[9], tile, token + 2u * SIDE, row + SIDE, subgroups);
    store(sums[10], tile, token + 2u * SIDE, row + 2u * SIDE, subgroups);
    store(sums[11], tile, token + 2u * SIDE, row + 3u * SIDE, subgroups);
    store(sums[12], tile, token + 3u * SIDE, row, subgroups);
    store(sums[13], tile, token + 3u * SIDE, row + SIDE, subgroups);
    store(sums[14], tile, token + 3u * SIDE, row + 2u * SIDE, subgroups);
    store(sums[15], tile, token + 3u * SIDE, row + 3u * SIDE, subgroups);
}

@group(0) @binding(3) var<storage, read> bias: array<f32>;

// Writes one matrix of sums, which begins at a token and a row of the tile.
fn store(sum: Sum, tile: Tile, first_token: u32, first_row: u32, subgroups: u32) {
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
    if (subgroups == SUBGROUPS && token < params.tokens && row < params.panel_rows) {
        coopStoreT(result, &y[place], stride);
    }
}
