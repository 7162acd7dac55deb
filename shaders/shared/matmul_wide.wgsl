// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias, for large products.
//
// A workgroup of 256 threads computes a tile of 128 tokens by 128 outputs, 16 inputs at a time; a thread keeps 8 x 8 sums in
// registers, so that each line of four numbers read from workgroup memory serves eight multiplications of four. Half of the
// threads stage x, half the weight: each reads a square of 4 x 4 numbers ahead, while the tile before is multiplied, and turns it
// in registers. Needs inputs that are a multiple of 4. Sums run over the inputs in order, as in matmul.wgsl.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<Quad>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const TILE = 128u;
const DEPTH = 16u;
// Quads of four tokens or outputs in a line of the tile, and one more against bank conflicts.
const LINE = 33u;

var<workgroup> x_tile: array<Quad, 528>; // DEPTH * LINE
var<workgroup> weight_tile: array<Quad, 528>;

// Four inputs of four consecutive rows of x or of the weight; what does not exist is zero.
fn square(stages_weight: bool, first: u32, input: u32) -> Square {
    return transpose(Square(
        quad_of(stages_weight, first, input),
        quad_of(stages_weight, first + 1u, input),
        quad_of(stages_weight, first + 2u, input),
        quad_of(stages_weight, first + 3u, input),
    ));
}

fn quad_of(stages_weight: bool, row: u32, input: u32) -> Quad {
    if (input >= params.inputs) {
        return Quad();
    }
    if (stages_weight) {
        if (row < params.panel_rows) {
            return Quad(weight_quad(row * params.inputs + input));
        }
    } else if (row < params.tokens) {
        return x[(row * params.inputs + input) / 4u];
    }
    return Quad();
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first_row = group.x * TILE;
    let first_token = (params.first_row + group.y) * TILE;
    let stages_weight = thread >= 128u;
    let staged = thread % 128u;
    let staged_quad = staged / 4u;
    let staged_input = staged % 4u * 4u;
    let staged_first = select(first_token, first_row, stages_weight) + staged_quad * 4u;
    let column = thread % 16u;
    let line = thread / 16u;

    // Of the low and high four tokens by the low and high four outputs.
    var low_low: mat4x4<f32>;
    var low_high: mat4x4<f32>;
    var high_low: mat4x4<f32>;
    var high_high: mat4x4<f32>;
    var next = square(stages_weight, staged_first, staged_input);
    for (var depth = 0u; depth < params.inputs; depth += DEPTH) {
        let place = staged_input * LINE + staged_quad;
        if (stages_weight) {
            weight_tile[place] = next[0];
            weight_tile[place + LINE] = next[1];
            weight_tile[place + 2u * LINE] = next[2];
            weight_tile[place + 3u * LINE] = next[3];
        } else {
            x_tile[place] = next[0];
            x_tile[place + LINE] = next[1];
            x_tile[place + 2u * LINE] = next[2];
            x_tile[place + 3u * LINE] = next[3];
        }
        workgroupBarrier();
        next = square(stages_weight, staged_first, depth + DEPTH + staged_input);
        for (var k = 0u; k < DEPTH; k++) {
            let weights_low = vec4<f32>(weight_tile[k * LINE + column]);
            let weights_high = vec4<f32>(weight_tile[k * LINE + 16u + column]);
            let tokens_low = vec4<f32>(x_tile[k * LINE + line]);
            let tokens_high = vec4<f32>(x_tile[k * LINE + 16u + line]);
            low_low += outer(tokens_low, weights_low);
            low_high += outer(tokens_low, weights_high);
            high_low += outer(tokens_high, weights_low);
            high_high += outer(tokens_high, weights_high);
        }
        workgroupBarrier();
    }
    let token = first_token + line * 4u;
    let row = first_row + column * 4u;
    store_square(token, row, low_low);
    store_square(token, row + 64u, low_high);
    store_square(token + 64u, row, high_low);
    store_square(token + 64u, row + 64u, high_high);
}
