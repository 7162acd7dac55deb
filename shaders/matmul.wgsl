// y[tokens, outputs] = x[tokens, inputs] weight[outputs, inputs]^T + bias.
//
// A workgroup of 16 x 16 threads computes a tile of 64 tokens by 64 outputs, 16 inputs at a time through workgroup memory;
// a thread keeps 4 x 4 sums in registers. Every sum runs over the inputs in order, whatever the number of tokens: a row of
// the result does not depend on the batch it is in.
//#include shared/weight.wgsl
//#include shared/matmul_params.wgsl
//#include shared/unscaled.wgsl
//#include shared/outer.wgsl
//#include shared/matmul_store.wgsl
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const TILE = 64u;
const DEPTH = 16u;
// One more than the tile keeps the threads that fill a column in different memory banks.
const STRIDE = 65u;

var<workgroup> x_tile: array<f32, 1040>; // DEPTH * STRIDE
var<workgroup> weight_tile: array<f32, 1040>;

fn x_quad(token: u32, input: u32) -> vec4<f32> {
    if (token >= params.tokens) {
        return vec4<f32>();
    }
    let index = token * params.inputs + input;
    if (input + 4u <= params.inputs) {
        return vec4<f32>(x[index], x[index + 1u], x[index + 2u], x[index + 3u]);
    }
    return vec4<f32>(x_at(index, input), x_at(index + 1u, input + 1u), x_at(index + 2u, input + 2u), 0.0);
}

fn x_at(index: u32, input: u32) -> f32 {
    if (input >= params.inputs) {
        return 0.0;
    }
    return x[index];
}

fn weight_row_quad(row: u32, input: u32) -> vec4<f32> {
    if (row >= params.panel_rows) {
        return vec4<f32>();
    }
    let index = row * params.inputs + input;
    if (input + 4u <= params.inputs) {
        return weight_quad(index);
    }
    return vec4<f32>(weight_or_zero(index, input), weight_or_zero(index + 1u, input + 1u), weight_or_zero(index + 2u, input + 2u), 0.0);
}

fn weight_or_zero(index: u32, input: u32) -> f32 {
    if (input >= params.inputs) {
        return 0.0;
    }
    return weight_at(index);
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = group.x * TILE;
    let first_token = (params.first_row + group.y) * TILE;
    // Each thread stages four consecutive inputs of one token and of one weight row.
    let staged_row = thread / 4u;
    let staged_input = thread % 4u * 4u;
    var sums: mat4x4<f32>;
    for (var depth = 0u; depth < params.inputs; depth += DEPTH) {
        let x_values = x_quad(first_token + staged_row, depth + staged_input);
        let weight_values = weight_row_quad(first_row + staged_row, depth + staged_input);
        let place = staged_input * STRIDE + staged_row;
        x_tile[place] = x_values.x;
        x_tile[place + STRIDE] = x_values.y;
        x_tile[place + 2u * STRIDE] = x_values.z;
        x_tile[place + 3u * STRIDE] = x_values.w;
        weight_tile[place] = weight_values.x;
        weight_tile[place + STRIDE] = weight_values.y;
        weight_tile[place + 2u * STRIDE] = weight_values.z;
        weight_tile[place + 3u * STRIDE] = weight_values.w;
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let w = k * STRIDE + local.x * 4u;
            let weights = vec4<f32>(weight_tile[w], weight_tile[w + 1u], weight_tile[w + 2u], weight_tile[w + 3u]);
            let t = k * STRIDE + local.y * 4u;
            let tokens = vec4<f32>(x_tile[t], x_tile[t + 1u], x_tile[t + 2u], x_tile[t + 3u]);
            sums += outer(tokens, weights);
        }
        workgroupBarrier();
    }
    store_square(first_token + local.y * 4u, first_row + local.x * 4u, sums);
}
