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
            var right: array<Right, 4>;
            for (var j = 0u; j < 4u; j++) {
                right[j] = coopLoad<Right>(&weight_tile[((subgroup_row + j * SIDE) * LINE + k) / UNIT], LINE / UNIT);
            }
            for (var i = 0u; i < 4u; i++) {
                let left = coopLoadT<Left>(&x_tile[((subgroup_token + i * SIDE) * LINE + k) / UNIT], LINE / UNIT);
                for (var j = 0u; j < 4u; j++) {
                    sums[i * 4u + j] = coopMultiplyAdd(left, right[j], sums[i * 4u + j]);
                }
            }
        }
        workgroupBarrier();
    }
    let patch_start = subgroup * SIDE * SIDE;
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            coopStoreT(sums[i * 4u + j], &patches[patch_start], SIDE);
            workgroupBarrier();
            for (var n = lane; n < SIDE * SIDE; n += SUBGROUP_SIZE) {
                let token = first_token + subgroup_token + i * SIDE + n / SIDE;
                let row = first_row + subgroup_row + j * SIDE + n % SIDE;
                if (token < params.tokens && row < params.panel_rows && subgroups == 4u) {
                    let output = params.first_output + row;
                    var value = patches[patch_start + n] * scales[token];
                    if (params.has_bias != 0u) {
                        value += bias[output];
                    }
                    y[token * params.outputs + output] = value;
                }
            }
            workgroupBarrier();
        }
    }
}
