// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias on matrix units: f16 operands, f32 sums.
//
// A workgroup of eight subgroups, two by four, computes a tile of TILE x TILE; a subgroup keeps 4 x 2 matrices of sums. DEPTH inputs at a
// time pass through workgroup memory as f16. Few sums a thread leave registers for a second workgroup, which computes while the first
// waits for what it reads. Needs inputs that are a multiple of 4, and both operands in f16. If the subgroups are not of the size that the
// constants say, nothing is written: the host tries the sizes that an adapter may have, and sees by a first product which is right.
override SUBGROUP_SIZE: u32 = 32u;
override THREADS: u32 = 256u; // 8 * SUBGROUP_SIZE
override STEPS: u32 = 4u; // TILE * DEPTH / 4 / THREADS
// 64 fills whole cache lines, and halves the barriers; 32 where workgroup memory is short.
override DEPTH: u32 = 32u;
override QUADS: u32 = DEPTH / 4u;
// Numbers between two lines of a staged tile: eight more than DEPTH, against bank conflicts.
override LINE: u32 = DEPTH + 8u;
override STAGED: u32 = TILE * LINE / UNIT;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
// The f16 form of a token's activations times its number is what they were.
@group(0) @binding(5) var<storage, read> scales: array<f32>;

// STEPS of the smallest subgroups.
const MOST_STEPS = 8u;

var<workgroup> x_tile: array<Staged, STAGED>;
var<workgroup> weight_tile: array<Staged, STAGED>;
// One matrix of sums of each subgroup, on its way out.
var<workgroup> patches: array<f32, PATCHES>;
// Of the tile's tokens, and of its outputs.
var<workgroup> tile_scales: array<f32, TILE>;
var<workgroup> tile_biases: array<f32, TILE>;

// Where a line begins. Beyond the last one it is the last, whose products nobody writes: what is read in a branch is waited for where the
// branch ends.
fn line_at(line: u32, lines: u32) -> u32 {
    return min(line, lines - 1u) * (params.inputs / 4u);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let first_row = group.x * TILE;
    let first_token = (params.first_row + group.y) * TILE;
    // Should a driver make more or fewer subgroups of the threads, all they do is stay within the tiles.
    let subgroup = subgroup_id % 8u;
    let subgroup_token = subgroup / 4u * 4u * SIDE;
    let subgroup_row = subgroup % 4u * 2u * SIDE;
    // Indexed by constants only, so that every driver keeps them in registers.
    var sums: array<Sum, 8>;
    // The quads of each operand, spread over the threads: where their lines begin, and what was read.
    var x_lines: array<u32, MOST_STEPS>;
    var weight_lines: array<u32, MOST_STEPS>;
    var x_read: array<vec4<f16>, MOST_STEPS>;
    var weight_read: array<vec4<f16>, MOST_STEPS>;
    let quad = thread % QUADS;
    for (var i = 0u; i < STEPS; i++) {
        let line = (thread + i * THREADS) / QUADS;
        x_lines[i] = line_at(first_token + line, params.tokens);
        weight_lines[i] = line_at(first_row + line, params.panel_rows);
    }
    for (var depth = 0u; depth < params.inputs; depth += DEPTH) {
        let column = min(depth / 4u + quad, params.inputs / 4u - 1u);
        for (var i = 0u; i < STEPS; i++) {
            x_read[i] = x[x_lines[i] + column];
            weight_read[i] = weight[weight_lines[i] + column];
        }
        // Zero in one of the operands is enough where inputs end.
        let exists = depth + quad * 4u < params.inputs;
        for (var i = 0u; i < STEPS; i++) {
            let place = (thread + i * THREADS) / QUADS * LINE + quad * 4u;
            stage_x(place, select(vec4<f16>(), x_read[i], exists));
            stage_weight(place, weight_read[i]);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIDE) {
            let right_0 = coopLoad<Right>(&weight_tile[(subgroup_row * LINE + k) / UNIT], LINE / UNIT);
            let right_1 = coopLoad<Right>(&weight_tile[((subgroup_row + SIDE) * LINE + k) / UNIT], LINE / UNIT);
            let left_0 = coopLoadT<Left>(&x_tile[(subgroup_token * LINE + k) / UNIT], LINE / UNIT);
            sums[0] = coopMultiplyAdd(left_0, right_0, sums[0]);
            sums[1] = coopMultiplyAdd(left_0, right_1, sums[1]);
            let left_1 = coopLoadT<Left>(&x_tile[((subgroup_token + SIDE) * LINE + k) / UNIT], LINE / UNIT);
            sums[2] = coopMultiplyAdd(left_1, right_0, sums[2]);
            sums[3] = coopMultiplyAdd(left_1, right_1, sums[3]);
            let left_2 = coopLoadT<Left>(&x_tile[((subgroup_token + 2u * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            sums[4] = coopMultiplyAdd(left_2, right_0, sums[4]);
            sums[5] = coopMultiplyAdd(left_2, right_1, sums[5]);
            let left_3 = coopLoadT<Left>(&x_tile[((subgroup_token + 3u * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            sums[6] = coopMultiplyAdd(left_3, right_0, sums[6]);
            sums[7] = coopMultiplyAdd(left_3, right_1, sums[7]);
        }
        workgroupBarrier();
    }
    // What does not exist is some other number, of sums that are not written. Without a bias its buffer holds one number for all.
    let has_bias = params.has_bias != 0u;
    for (var i = thread; i < TILE; i += THREADS) {
        tile_scales[i] = scales[min(first_token + i, params.tokens - 1u)];
        let output = params.first_output + min(first_row + i, params.panel_rows - 1u);
        tile_biases[i] = select(0.0, bias[select(0u, output, has_bias)], has_bias);
    }
    let corner = subgroup * SIDE * SIDE;
    let tile = Tile(first_token, first_row);
    let token = subgroup_token;
    let row = subgroup_row;
    let writes = subgroups == 8u;
    coopStoreT(sums[0], &patches[corner], SIDE);
    store(tile, writes, token, row, corner, lane);
    coopStoreT(sums[1], &patches[corner], SIDE);
    store(tile, writes, token, row + SIDE, corner, lane);
    coopStoreT(sums[2], &patches[corner], SIDE);
    store(tile, writes, token + SIDE, row, corner, lane);
    coopStoreT(sums[3], &patches[corner], SIDE);
    store(tile, writes, token + SIDE, row + SIDE, corner, lane);
    coopStoreT(sums[4], &patches[corner], SIDE);
    store(tile, writes, token + 2u * SIDE, row, corner, lane);
    coopStoreT(sums[5], &patches[corner], SIDE);
    store(tile, writes, token + 2u * SIDE, row + SIDE, corner, lane);
    coopStoreT(sums[6], &patches[corner], SIDE);
    store(tile, writes, token + 3u * SIDE, row, corner, lane);
    coopStoreT(sums[7], &patches[corner], SIDE);
    store(tile, writes, token + 3u * SIDE, row + SIDE, corner, lane);
}

struct Tile {
    first_token: u32,
    first_row: u32,
}

// Writes one matrix of sums, which begins at a token and a row of the tile.
fn store(tile: Tile, writes: bool, first_token: u32, first_row: u32, corner: u32, lane: u32) {
    workgroupBarrier();
    for (var step = 0u; step < SIDE * SIDE / SUBGROUP_SIZE; step++) {
        let n = (step * SUBGROUP_SIZE + lane) % (SIDE * SIDE);
        let token = first_token + n / SIDE;
        let row = first_row + n % SIDE;
        let value = patches[corner + n] * tile_scales[token] + tile_biases[row];
        if (writes && tile.first_token + token < params.tokens && tile.first_row + row < params.panel_rows) {
            y[(tile.first_token + token) * params.outputs + params.first_output + tile.first_row + row] = value;
        }
    }
    workgroupBarrier();
}
