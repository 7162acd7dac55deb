// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias on matrix units: f16 operands, f32 sums.
//
// A workgroup of four subgroups computes a tile of TILE x TILE; a subgroup keeps 4 x 4 matrices of sums. 32 inputs at a time pass
// through workgroup memory as f16. Activations beyond f16's range
// set overflow[0], which the host checks: they are never silently clipped.
override SUBGROUP_SIZE: u32 = 32u;
override THREADS: u32 = 128u; // 4 * SUBGROUP_SIZE

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> overflow: array<atomic<u32>>;

const DEPTH = 32u;
// Numbers between two lines of a staged tile: eight more than DEPTH, against bank conflicts.
const LINE = 40u;
const LARGEST = 65504.0;

var<workgroup> x_tile: array<f16, STAGED>;
var<workgroup> weight_tile: array<f16, STAGED>;
// One matrix of sums of each subgroup, on its way out.
var<workgroup> patches: array<f32, PATCHES>;

fn token_pair(token: u32, input: u32) -> vec2<f32> {
    var pair = vec2<f32>();
    if (token < params.tokens) {
        let index = token * params.inputs + input;
        if (input < params.inputs) {
            pair.x = x[index];
        }
        if (input + 1u < params.inputs) {
            pair.y = x[index + 1u];
        }
    }
    return pair;
}

fn weight_number(index: u32) -> f32 {
    let pair = unpack2x16float(weight[index >> 1u]);
    return select(pair.x, pair.y, (index & 1u) == 1u);
}

fn weight_pair(row: u32, input: u32) -> vec2<f32> {
    var pair = vec2<f32>();
    if (row < params.panel_rows) {
        let index = row * params.inputs + input;
        if ((index & 1u) == 0u && input + 1u < params.inputs) {
            return unpack2x16float(weight[index >> 1u]);
        }
        if (input < params.inputs) {
            pair.x = weight_number(index);
        }
        if (input + 1u < params.inputs) {
            pair.y = weight_number(index + 1u);
        }
    }
    return pair;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let first_row = group.x * TILE;
    let first_token = group.y * TILE;
    // The subgroups stand two by two.
    let subgroup_token = subgroup / 2u * 4u * SIDE;
    let subgroup_row = subgroup % 2u * 4u * SIDE;
    var sums: array<Sum, 16>;
    var too_large = false;
    for (var depth = 0u; depth < params.inputs; depth += DEPTH) {
        for (var i = thread; i < TILE * DEPTH / 2u; i += THREADS) {
            let line = i / (DEPTH / 2u);
            let input = i % (DEPTH / 2u) * 2u;
            let tokens = token_pair(first_token + line, depth + input);
            too_large = too_large || any(abs(tokens) > vec2<f32>(LARGEST));
            x_tile[line * LINE + input] = f16(tokens.x);
            x_tile[line * LINE + input + 1u] = f16(tokens.y);
            let weights = weight_pair(first_row + line, depth + input);
            weight_tile[line * LINE + input] = f16(weights.x);
            weight_tile[line * LINE + input + 1u] = f16(weights.y);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += SIDE) {
            for (var i = 0u; i < 4u; i++) {
                let left = coopLoadT<Left>(&x_tile[(subgroup_token + i * SIDE) * LINE + k], LINE);
                for (var j = 0u; j < 4u; j++) {
                    let right = coopLoad<Right>(&weight_tile[(subgroup_row + j * SIDE) * LINE + k], LINE);
                    sums[i * 4u + j] = coopMultiplyAdd(left, right, sums[i * 4u + j]);
                }
            }
        }
        workgroupBarrier();
    }
    if (too_large) {
        atomicStore(&overflow[0], 1u);
    }
    let patch_start = subgroup * SIDE * SIDE;
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            coopStoreT(sums[i * 4u + j], &patches[patch_start], SIDE);
            workgroupBarrier();
            for (var n = lane; n < SIDE * SIDE; n += SUBGROUP_SIZE) {
                let token = first_token + subgroup_token + i * SIDE + n / SIDE;
                let row = first_row + subgroup_row + j * SIDE + n % SIDE;
                if (token < params.tokens && row < params.panel_rows) {
                    let output = params.first_output + row;
                    var value = patches[patch_start + n];
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
