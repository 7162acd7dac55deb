// sum[columns, width] += a[tokens, columns of a]^T b[tokens, first width columns of b].
//
// A workgroup of 16 x 16 threads adds a tile of 128 columns of a by 128 columns of b, 16 tokens at a time through workgroup memory; a
// thread keeps 8 x 8 sums in registers, and reads the next tokens ahead while it multiplies these. The tokens of one call are summed in
// f32 in order. With `symmetric`, b is a, and tiles behind the diagonal are left out.
//#include shared/outer.wgsl
//#include shared/sums.wgsl
// Whether the columns of a and b, and the first of them, are multiples of 4: four neighbours are then read at once.
override ALIGNED: bool = false;

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
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> sum: array<f32>;

const TILE = 128u;
const DEPTH = 16u;
// Quads of columns in a line of a tile.
const LINE = 32u;

var<workgroup> a_tile: array<vec4<f32>, 512>; // DEPTH * LINE
var<workgroup> b_tile: array<vec4<f32>, 512>;

// Four columns of two tokens from each side.
struct Ahead {
    a: vec4<f32>,
    later_a: vec4<f32>,
    b: vec4<f32>,
    later_b: vec4<f32>,
}

// Beyond the edges it is the last column or token again: what is read in a branch is waited for where the branch ends, and would not be
// read ahead. Sums of such columns are not written, and tokens that do not exist are zeroed when they are staged.
fn read_ahead(a_columns: vec4<u32>, b_columns: vec4<u32>, token: u32) -> Ahead {
    let first = min(token, params.tokens - 1u);
    let second = min(token + 8u, params.tokens - 1u);
    return Ahead(
        a_quad(first * params.a_columns + a_columns),
        a_quad(second * params.a_columns + a_columns),
        b_quad(first * params.b_columns + b_columns),
        b_quad(second * params.b_columns + b_columns),
    );
}

fn a_quad(at: vec4<u32>) -> vec4<f32> {
    if (ALIGNED) {
        return a[at.x / 4u];
    }
    return vec4<f32>(a[at.x / 4u][at.x % 4u], a[at.y / 4u][at.y % 4u], a[at.z / 4u][at.z % 4u], a[at.w / 4u][at.w % 4u]);
}

fn b_quad(at: vec4<u32>) -> vec4<f32> {
    if (ALIGNED) {
        return b[at.x / 4u];
    }
    return vec4<f32>(b[at.x / 4u][at.x % 4u], b[at.y / 4u][at.y % 4u], b[at.z / 4u][at.z % 4u], b[at.w / 4u][at.w % 4u]);
}

// Four consecutive columns of those that there are.
fn columns_from(first: u32, columns: u32) -> vec4<u32> {
    return min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(columns - 1u));
}

// Adds the products of one token.
fn add_products(sums: ptr<function, Sums>, k: u32, line: u32, column: u32) {
    let a_low = a_tile[k * LINE + line];
    let a_high = a_tile[k * LINE + 16u + line];
    let b_low = b_tile[k * LINE + column];
    let b_high = b_tile[k * LINE + 16u + column];
    add_outer(sums, a_low, a_high, b_low, b_high);
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
    let a_columns = params.first_column + columns_from(first_a + thread % LINE * 4u, params.columns);
    let b_columns = columns_from(first_b + thread % LINE * 4u, params.width);
    var next = read_ahead(a_columns, b_columns, staged_token);
    var sums: Sums;
    for (var token = 0u; token < params.tokens; token += DEPTH) {
        // Zero in one of the operands is enough.
        a_tile[thread] = select(vec4<f32>(), next.a, token + staged_token < params.tokens);
        a_tile[thread + 256u] = select(vec4<f32>(), next.later_a, token + staged_token + 8u < params.tokens);
        b_tile[thread] = next.b;
        b_tile[thread + 256u] = next.later_b;
        workgroupBarrier();
        next = read_ahead(a_columns, b_columns, token + DEPTH + staged_token);
        if (LOOPED) {
            for (var k = 0u; k < DEPTH; k++) {
                add_products(&sums, k, local.y, local.x);
            }
        } else {
//#repeat k 16
            add_products(&sums, $ku, local.y, local.x);
//#end
        }
        workgroupBarrier();
    }
    let row = first_a + local.y * 4u;
    let column = first_b + local.x * 4u;
    add_square(row, column, sums.low_low);
    add_square(row, column + 64u, sums.low_high);
    add_square(row + 64u, column, sums.high_low);
    add_square(row + 64u, column + 64u, sums.high_high);
}

fn add_square(row: u32, column: u32, sums: mat4x4<f32>) {
    add_quad(row, column, sums[0]);
    add_quad(row + 1u, column, sums[1]);
    add_quad(row + 2u, column, sums[2]);
    add_quad(row + 3u, column, sums[3]);
}

fn add_quad(row: u32, column: u32, sums: vec4<f32>) {
    if (row < params.columns) {
        let at = row * params.width + columns_from(column, params.width);
        let values = sums + vec4<f32>(sum[at.x], sum[at.y], sum[at.z], sum[at.w]);
        store(at.x, column, values.x);
        store(at.y, column + 1u, values.y);
        store(at.z, column + 2u, values.z);
        store(at.w, column + 3u, values.w);
    }
}

fn store(at: u32, column: u32, value: f32) {
    if (column < params.width) {
        sum[at] = value;
    }
}
