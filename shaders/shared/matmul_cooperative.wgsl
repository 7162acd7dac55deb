// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias on matrix units: f16 operands, f32 sums.
//
// A workgroup of four subgroups computes a tile of TILE x TILE; a subgroup keeps 4 x 4 matrices of sums. 32 inputs at a time pass
// through workgroup memory as f16; the next ones are read into registers while the matrix units work. Needs inputs that are a
// multiple of 8, and both operands in f16. If the subgroups are not of the size that the constants say, nothing is written: the host
// tries the sizes that an adapter may have, and sees by a first product which is right.
override SUBGROUP_SIZE: u32 = 32u;
override THREADS: u32 = 128u; // 4 * SUBGROUP_SIZE
override STEPS: u32 = 4u; // TILE * 4 / THREADS, at least 1

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<Eight>;
@group(0) @binding(2) var<storage, read> x: array<Eight>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
// The f16 form of a token's activations times its number is what they were.
@group(0) @binding(5) var<storage, read> scales: array<f32>;

const DEPTH = 32u;
// Numbers between two lines of a staged tile: eight more than DEPTH, against bank conflicts.
const LINE = 40u;

var<workgroup> x_tile: array<Staged, STAGED>;
var<workgroup> weight_tile: array<Staged, STAGED>;
// One matrix of sums of each subgroup, on its way out.
var<workgroup> patches: array<f32, PATCHES>;

// Eight consecutive inputs of a token or of an output.
struct Eight {
    low: vec4<f16>,
    high: vec4<f16>,
}

struct Ahead {
    x: Eight,
    weight: Eight,
}

// Reads eights number `eighth` of the tiles that begin at `depth`; what does not exist is zero.
fn read_ahead(first_token: u32, first_row: u32, depth: u32, eighth: u32) -> Ahead {
    var ahead: Ahead;
    let line = eighth / 4u;
    let input = depth + eighth % 4u * 8u;
    if (eighth < TILE * 4u && input < params.inputs) {
        if (first_token + line < params.tokens) {
            ahead.x = x[((first_token + line) * params.inputs + input) / 8u];
        }
        if (first_row + line < params.panel_rows) {
            ahead.weight = weight[((first_row + line) * params.inputs + input) / 8u];
        }
    }
    return ahead;
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
    // The subgroups stand two by two. Should a driver make more or fewer of the threads, all they do is stay within the tiles.
    let subgroup = subgroup_id % 4u;
    let subgroup_token = subgroup / 2u * 4u * SIDE;
    let subgroup_row = subgroup % 2u * 4u * SIDE;
    // Indexed by constants only, so that every driver keeps them in registers.
    var sums: array<Sum, 16>;
    // TILE * 4 eights of each operand, spread over the threads.
    var ahead: array<Ahead, EIGHTHS>;
    for (var i = 0u; i < STEPS; i++) {
        ahead[i] = read_ahead(first_token, first_row, 0u, thread + i * THREADS);
    }
    for (var depth = 0u; depth < params.inputs; depth += DEPTH) {
        for (var i = 0u; i < STEPS; i++) {
            let eighth = thread + i * THREADS;
            if (eighth < TILE * 4u) {
                let place = eighth / 4u * LINE + eighth % 4u * 8u;
                stage_x(place, ahead[i].x);
                stage_weight(place, ahead[i].weight);
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < STEPS; i++) {
            ahead[i] = read_ahead(first_token, first_row, depth + DEPTH, thread + i * THREADS);
        }
        for (var k = 0u; k < DEPTH; k += SIDE) {
            let right_0 = coopLoad<Right>(&weight_tile[(subgroup_row * LINE + k) / UNIT], LINE / UNIT);
            let right_1 = coopLoad<Right>(&weight_tile[((subgroup_row + SIDE) * LINE + k) / UNIT], LINE / UNIT);
            let right_2 = coopLoad<Right>(&weight_tile[((subgroup_row + 2u * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            let right_3 = coopLoad<Right>(&weight_tile[((subgroup_row + 3u * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            let left_0 = coopLoadT<Left>(&x_tile[(subgroup_token * LINE + k) / UNIT], LINE / UNIT);
            sums[0] = coopMultiplyAdd(left_0, right_0, sums[0]);
            sums[1] = coopMultiplyAdd(left_0, right_1, sums[1]);
            sums[2] = coopMultiplyAdd(left_0, right_2, sums[2]);
            sums[3] = coopMultiplyAdd(left_0, right_3, sums[3]);
            let left_1 = coopLoadT<Left>(&x_tile[((subgroup_token + SIDE) * LINE + k) / UNIT], LINE / UNIT);
            sums[4] = coopMultiplyAdd(left_1, right_0, sums[4]);
            sums[5] = coopMultiplyAdd(left_1, right_1, sums[5]);
            sums[6] = coopMultiplyAdd(left_1, right_2, sums[6]);
            sums[7] = coopMultiplyAdd(left_1, right_3, sums[7]);
            let left_2 = coopLoadT<Left>(&x_tile[((subgroup_token + 2u * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            sums[8] = coopMultiplyAdd(left_2, right_0, sums[8]);
            sums[9] = coopMultiplyAdd(left_2, right_1, sums[9]);
            sums[10] = coopMultiplyAdd(left_2, right_2, sums[10]);
            sums[11] = coopMultiplyAdd(left_2, right_3, sums[11]);
            let left_3 = coopLoadT<Left>(&x_tile[((subgroup_token + 3u * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            sums[12] = coopMultiplyAdd(left_3, right_0, sums[12]);
            sums[13] = coopMultiplyAdd(left_3, right_1, sums[13]);
            sums[14] = coopMultiplyAdd(left_3, right_2, sums[14]);
            sums[15] = coopMultiplyAdd(left_3, right_3, sums[15]);
        }
        workgroupBarrier();
    }
    let corner = subgroup * SIDE * SIDE;
    let token = first_token + subgroup_token;
    let row = first_row + subgroup_row;
    let writes = subgroups == 4u;
    coopStoreT(sums[0], &patches[corner], SIDE);
    store(writes, token, row, corner, lane);
    coopStoreT(sums[1], &patches[corner], SIDE);
    store(writes, token, row + SIDE, corner, lane);
    coopStoreT(sums[2], &patches[corner], SIDE);
    store(writes, token, row + 2u * SIDE, corner, lane);
    coopStoreT(sums[3], &patches[corner], SIDE);
    store(writes, token, row + 3u * SIDE, corner, lane);
    coopStoreT(sums[4], &patches[corner], SIDE);
    store(writes, token + SIDE, row, corner, lane);
    coopStoreT(sums[5], &patches[corner], SIDE);
    store(writes, token + SIDE, row + SIDE, corner, lane);
    coopStoreT(sums[6], &patches[corner], SIDE);
    store(writes, token + SIDE, row + 2u * SIDE, corner, lane);
    coopStoreT(sums[7], &patches[corner], SIDE);
    store(writes, token + SIDE, row + 3u * SIDE, corner, lane);
    coopStoreT(sums[8], &patches[corner], SIDE);
    store(writes, token + 2u * SIDE, row, corner, lane);
    coopStoreT(sums[9], &patches[corner], SIDE);
    store(writes, token + 2u * SIDE, row + SIDE, corner, lane);
    coopStoreT(sums[10], &patches[corner], SIDE);
    store(writes, token + 2u * SIDE, row + 2u * SIDE, corner, lane);
    coopStoreT(sums[11], &patches[corner], SIDE);
    store(writes, token + 2u * SIDE, row + 3u * SIDE, corner, lane);
    coopStoreT(sums[12], &patches[corner], SIDE);
    store(writes, token + 3u * SIDE, row, corner, lane);
    coopStoreT(sums[13], &patches[corner], SIDE);
    store(writes, token + 3u * SIDE, row + SIDE, corner, lane);
    coopStoreT(sums[14], &patches[corner], SIDE);
    store(writes, token + 3u * SIDE, row + 2u * SIDE, corner, lane);
    coopStoreT(sums[15], &patches[corner], SIDE);
    store(writes, token + 3u * SIDE, row + 3u * SIDE, corner, lane);
}

// Writes one matrix of sums.
fn store(writes: bool, first_token: u32, first_row: u32, corner: u32, lane: u32) {
    workgroupBarrier();
    for (var n = lane; n < SIDE * SIDE; n += SUBGROUP_SIZE) {
        let token = first_token + n / SIDE;
        let row = first_row + n % SIDE;
        if (writes && token < params.tokens && row < params.panel_rows) {
            let output = params.first_output + row;
            var value = patches[corner + n] * scales[token];
            if (params.has_bias != 0u) {
                value += bias[output];
            }
            y[token * params.outputs + output] = value;
        }
    }
    workgroupBarrier();
}
