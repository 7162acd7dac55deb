// sum[columns, width] += a[tokens, columns of a]^T b[tokens, first width columns of b].
//
// A workgroup of 16 x 16 threads adds a tile of 64 columns of a by 64 columns of b, 16 tokens at a time through workgroup memory; a
// thread keeps 4 x 4 sums in registers. The tokens of one call are summed in f32 in order. With `symmetric`, b is a, and tiles behind
// the diagonal are left out.
struct Params {
    tokens: u32,
    a_columns: u32,
    first_column: u32,
    columns: u32,
    b_columns: u32,
    width: u32,
    symmetric: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> sum: array<f32>;

const TILE = 64u;
const DEPTH = 16u;

var<workgroup> a_tile: array<vec4<f32>, 256>; // DEPTH * TILE / 4
var<workgroup> b_tile: array<vec4<f32>, 256>;

fn a_quad(token: u32, column: u32) -> vec4<f32> {
    var values = vec4<f32>();
    if (token < params.tokens) {
        for (var i = 0u; i < 4u; i++) {
            if (column + i < params.columns) {
                values[i] = a[token * params.a_columns + params.first_column + column + i];
            }
        }
    }
    return values;
}

fn b_quad(token: u32, column: u32) -> vec4<f32> {
    var values = vec4<f32>();
    if (token < params.tokens) {
        for (var i = 0u; i < 4u; i++) {
            if (column + i < params.width) {
                values[i] = b[token * params.b_columns + column + i];
            }
        }
    }
    return values;
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_b = group.x * TILE;
    let first_a = group.y * TILE;
    if (params.symmetric != 0u && first_b > params.first_column + first_a + TILE - 1u) {
        return;
    }
    // Each thread stages four neighbouring columns of one token from each side.
    let staged_token = thread / 16u;
    let staged_column = thread % 16u;
    var sums: array<vec4<f32>, 4>;
    for (var token = 0u; token < params.tokens; token += DEPTH) {
        a_tile[thread] = a_quad(token + staged_token, first_a + staged_column * 4u);
        b_tile[thread] = b_quad(token + staged_token, first_b + staged_column * 4u);
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let left = a_tile[k * 16u + local.y];
            let right = b_tile[k * 16u + local.x];
            sums[0] += left.x * right;
            sums[1] += left.y * right;
            sums[2] += left.z * right;
            sums[3] += left.w * right;
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let row = first_a + local.y * 4u + i;
        for (var j = 0u; j < 4u; j++) {
            let column = first_b + local.x * 4u + j;
            if (row < params.columns && column < params.width) {
                sum[row * params.width + column] += sums[i][j];
            }
        }
    }
}
