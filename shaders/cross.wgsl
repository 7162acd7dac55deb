// sum[columns, width] += a[tokens, columns of a]^T b[tokens, first width columns of b].
//
// A workgroup of 16 x 16 threads adds a tile of 128 columns of a by 128 columns of b, 16 tokens at a time through workgroup memory; a
// thread keeps 8 x 8 sums in registers, and reads the next tokens ahead while it multiplies these. The tokens of one call are summed in
// f32 in order. With `symmetric`, b is a, and tiles behind the diagonal are left out.
struct Params {
    tokens: u32,
    a_columns: u32,
    first_column: u32,
    columns: u32,
    b_columns: u32,
    width: u32,
    symmetric: u32,
    // First row of tiles.
    first_row: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> sum: array<f32>;

const TILE = 128u;
const DEPTH = 16u;
// Quads of columns in a line of a tile.
const LINE = 32u;

var<workgroup> a_tile: array<vec4<f32>, 512>; // DEPTH * LINE
var<workgroup> b_tile: array<vec4<f32>, 512>;

// Four consecutive columns of a token; what does not exist is zero.
fn a_quad(token: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(a_at(token, column), a_at(token, column + 1u), a_at(token, column + 2u), a_at(token, column + 3u));
}

fn a_at(token: u32, column: u32) -> f32 {
    if (token >= params.tokens || column >= params.columns) {
        return 0.0;
    }
    return a[token * params.a_columns + params.first_column + column];
}

fn b_quad(token: u32, column: u32) -> vec4<f32> {
    return vec4<f32>(b_at(token, column), b_at(token, column + 1u), b_at(token, column + 2u), b_at(token, column + 3u));
}

fn b_at(token: u32, column: u32) -> f32 {
    if (token >= params.tokens || column >= params.width) {
        return 0.0;
    }
    return b[token * params.b_columns + column];
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_b = group.x * TILE;
    let first_a = (params.first_row + group.y) * TILE;
    if (params.symmetric != 0u && first_b > params.first_column + first_a + TILE - 1u) {
        return;
    }
    // Each thread stages four neighbouring columns of two tokens from each side.
    let staged_token = thread / LINE;
    let staged_a = first_a + thread % LINE * 4u;
    let staged_b = first_b + thread % LINE * 4u;
    var next_a = array<vec4<f32>, 2>(a_quad(staged_token, staged_a), a_quad(staged_token + 8u, staged_a));
    var next_b = array<vec4<f32>, 2>(b_quad(staged_token, staged_b), b_quad(staged_token + 8u, staged_b));
    var low: array<vec4<f32>, 8>;
    var high: array<vec4<f32>, 8>;
    for (var token = 0u; token < params.tokens; token += DEPTH) {
        a_tile[thread] = next_a[0];
        a_tile[thread + 256u] = next_a[1];
        b_tile[thread] = next_b[0];
        b_tile[thread + 256u] = next_b[1];
        workgroupBarrier();
        let ahead = token + DEPTH + staged_token;
        next_a = array<vec4<f32>, 2>(a_quad(ahead, staged_a), a_quad(ahead + 8u, staged_a));
        next_b = array<vec4<f32>, 2>(b_quad(ahead, staged_b), b_quad(ahead + 8u, staged_b));
        for (var k = 0u; k < DEPTH; k++) {
            let a_low = a_tile[k * LINE + local.y];
            let a_high = a_tile[k * LINE + 16u + local.y];
            let b_low = b_tile[k * LINE + local.x];
            let b_high = b_tile[k * LINE + 16u + local.x];
            for (var i = 0u; i < 4u; i++) {
                low[i] += a_low[i] * b_low;
                high[i] += a_low[i] * b_high;
                low[4u + i] += a_high[i] * b_low;
                high[4u + i] += a_high[i] * b_high;
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 8u; i++) {
        let row = first_a + local.y * 4u + i % 4u + i / 4u * 64u;
        if (row < params.columns) {
            add(row, first_b + local.x * 4u, low[i]);
            add(row, first_b + 64u + local.x * 4u, high[i]);
        }
    }
}

fn add(row: u32, column: u32, sums: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if (column + j < params.width) {
            sum[row * params.width + column + j] += sums[j];
        }
    }
}
