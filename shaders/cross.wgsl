// sum[columns, width] += a[tokens, columns of a]^T b[tokens, first width columns of b].
//
// A workgroup of 16 x 16 threads adds a tile of 128 columns of a by 128 columns of b, 16 tokens at a time through workgroup memory; a
// thread keeps 8 x 8 sums in registers, and reads the next tokens ahead while it multiplies these. The tokens of one call are summed in
// f32 in order. With `symmetric`, b is a, and tiles behind the diagonal are left out.
//#include shared/outer.wgsl
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
    var next_a = a_quad(staged_token, staged_a);
    var later_a = a_quad(staged_token + 8u, staged_a);
    var next_b = b_quad(staged_token, staged_b);
    var later_b = b_quad(staged_token + 8u, staged_b);
    // Of the low and high four columns of a by the low and high four of b.
    var low_low: mat4x4<f32>;
    var low_high: mat4x4<f32>;
    var high_low: mat4x4<f32>;
    var high_high: mat4x4<f32>;
    for (var token = 0u; token < params.tokens; token += DEPTH) {
        a_tile[thread] = next_a;
        a_tile[thread + 256u] = later_a;
        b_tile[thread] = next_b;
        b_tile[thread + 256u] = later_b;
        workgroupBarrier();
        let ahead = token + DEPTH + staged_token;
        next_a = a_quad(ahead, staged_a);
        later_a = a_quad(ahead + 8u, staged_a);
        next_b = b_quad(ahead, staged_b);
        later_b = b_quad(ahead + 8u, staged_b);
        for (var k = 0u; k < DEPTH; k++) {
            let a_low = a_tile[k * LINE + local.y];
            let a_high = a_tile[k * LINE + 16u + local.y];
            let b_low = b_tile[k * LINE + local.x];
            let b_high = b_tile[k * LINE + 16u + local.x];
            low_low += outer(a_low, b_low);
            low_high += outer(a_low, b_high);
            high_low += outer(a_high, b_low);
            high_high += outer(a_high, b_high);
        }
        workgroupBarrier();
    }
    let row = first_a + local.y * 4u;
    let column = first_b + local.x * 4u;
    add_square(row, column, low_low);
    add_square(row, column + 64u, low_high);
    add_square(row + 64u, column, high_low);
    add_square(row + 64u, column + 64u, high_high);
}

fn add_square(row: u32, column: u32, sums: mat4x4<f32>) {
    add_quad(row, column, sums[0]);
    add_quad(row + 1u, column, sums[1]);
    add_quad(row + 2u, column, sums[2]);
    add_quad(row + 3u, column, sums[3]);
}

fn add_quad(row: u32, column: u32, sums: vec4<f32>) {
    if (row < params.columns) {
        add(row, column, sums.x);
        add(row, column + 1u, sums.y);
        add(row, column + 2u, sums.z);
        add(row, column + 3u, sums.w);
    }
}

fn add(row: u32, column: u32, value: f32) {
    if (column < params.width) {
        sum[row * params.width + column] += value;
    }
}
