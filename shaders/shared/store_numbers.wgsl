// Matrices of sums go to y number by number, by way of workgroup memory.

// One matrix of sums of each subgroup, on its way out.
var<workgroup> patches: array<f32, SUBGROUPS * SIDE * SIDE>;
// Of the tile's tokens, and of its outputs.
var<workgroup> tile_scales: array<f32, TILE>;
var<workgroup> tile_biases: array<f32, TILE>;

// Beyond the last token or output stands the number of the last one; sums there are not written. Without a bias its buffer holds one number.
fn prepare(tile: Tile, thread: u32) {
    let has_bias = params.has_bias != 0u;
    for (var i = thread; i < TILE; i += THREADS) {
        tile_scales[i] = scales[min(tile.token + i, params.tokens - 1u) / 16u];
        let output = params.first_output + min(tile.row + i, params.panel_rows - 1u);
        tile_biases[i] = select(0.0, bias[select(0u, output, has_bias)], has_bias);
    }
}

// Writes one matrix of sums, which begins at a token and a row of the tile.
fn store(sum: Sum, tile: Tile, first_token: u32, first_row: u32, part: Part) {
    let corner = part.subgroup * SIDE * SIDE;
    coopStoreT(sum, &patches[corner], SIDE);
    workgroupBarrier();
    for (var step = 0u; step < SIDE * SIDE / SUBGROUP_SIZE; step++) {
        let n = (step * SUBGROUP_SIZE + part.lane) % (SIDE * SIDE);
        let token = first_token + n / SIDE;
        let row = first_row + n % SIDE;
        let value = patches[corner + n] * tile_scales[token] + tile_biases[row];
        if (part.writes && tile.token + token < params.tokens && tile.row + row < params.panel_rows) {
            y[(tile.token + token) * params.outputs + params.first_output + tile.row + row] = value;
        }
    }
    workgroupBarrier();
}
