    // The rest of a product on matrix units: its matrices of sums go to y number by number, by way of workgroup memory.
    // What does not exist is some other number, of sums that are not written. Without a bias its buffer holds one number for all.
    let has_bias = params.has_bias != 0u;
    for (var i = thread; i < TILE; i += THREADS) {
        tile_scales[i] = scales[min(tile.token + i, params.tokens - 1u) / 16u];
        let output = params.first_output + min(tile.row + i, params.panel_rows - 1u);
        tile_biases[i] = select(0.0, bias[select(0u, output, has_bias)], has_bias);
    }
    let mine = Mine(subgroup * SIDE * SIDE, lane, subgroups == SUBGROUPS);
    store(sums[0], tile, token, row, mine);
    store(sums[1], tile, token, row + SIDE, mine);
    store(sums[2], tile, token, row + 2u * SIDE, mine);
    store(sums[3], tile, token, row + 3u * SIDE, mine);
    store(sums[4], tile, token + SIDE, row, mine);
    store(sums[5], tile, token + SIDE, row + SIDE, mine);
    store(sums[6], tile, token + SIDE, row + 2u * SIDE, mine);
    store(sums[7], tile, token + SIDE, row + 3u * SIDE, mine);
    store(sums[8], tile, token + 2u * SIDE, row, mine);
    store(sums[9], tile, token + 2u * SIDE, row + SIDE, mine);
    store(sums[10], tile, token + 2u * SIDE, row + 2u * SIDE, mine);
    store(sums[11], tile, token + 2u * SIDE, row + 3u * SIDE, mine);
    store(sums[12], tile, token + 3u * SIDE, row, mine);
    store(sums[13], tile, token + 3u * SIDE, row + SIDE, mine);
    store(sums[14], tile, token + 3u * SIDE, row + 2u * SIDE, mine);
    store(sums[15], tile, token + 3u * SIDE, row + 3u * SIDE, mine);
}

@group(0) @binding(3) var<storage, read> bias: array<f32>;

// One matrix of sums of each subgroup, on its way out.
var<workgroup> patches: array<f32, SUBGROUPS * SIDE * SIDE>;
// Of the tile's tokens, and of its outputs.
var<workgroup> tile_scales: array<f32, TILE>;
var<workgroup> tile_biases: array<f32, TILE>;

// A thread's part in a matrix of sums: where its subgroup's begins in `patches`, which thread of the subgroup it is, and whether it writes.
struct Mine {
    corner: u32,
    lane: u32,
    writes: bool,
}

// Writes one matrix of sums, which begins at a token and a row of the tile.
fn store(sum: Sum, tile: Tile, first_token: u32, first_row: u32, mine: Mine) {
    let corner = mine.corner;
    coopStoreT(sum, &patches[corner], SIDE);
    workgroupBarrier();
    for (var step = 0u; step < SIDE * SIDE / SUBGROUP_SIZE; step++) {
        let n = (step * SUBGROUP_SIZE + mine.lane) % (SIDE * SIDE);
        let token = first_token + n / SIDE;
        let row = first_row + n % SIDE;
        let value = patches[corner + n] * tile_scales[token] + tile_biases[row];
        if (mine.writes && tile.token + token < params.tokens && tile.row + row < params.panel_rows) {
            y[(tile.token + token) * params.outputs + params.first_output + tile.row + row] = value;
        }
    }
    workgroupBarrier();
}
