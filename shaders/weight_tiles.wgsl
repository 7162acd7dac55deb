// Rows of a weight in f16, [rows, columns], as tiles; see shared/tiles.wgsl. One thread a unit. Numbers are moved as words, so that none
// changes.
//#include shared/workgroup.wgsl
//#include shared/tiles.wgsl
override TILE: u32 = 128u;

struct Params {
    rows: u32,
    columns: u32,
    // Tiles along the columns.
    tiles: u32,
    // Units in all.
    units: u32,
    // First unit of these rows.
    first_unit: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;

// The numbers of two columns, the first of them even, or zero where they do not exist.
fn pair_at(row: u32, column: u32) -> u32 {
    if (row >= params.rows || column >= params.columns) {
        return 0u;
    }
    let index = row * params.columns + column;
    let word = weight[index >> 1u];
    let alone = column + 1u == params.columns;
    if ((index & 1u) == 0u) {
        return select(word, word & 0xffffu, alone);
    }
    var next = 0u;
    if (!alone) {
        next = weight[(index >> 1u) + 1u] << 16u;
    }
    return word >> 16u | next;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let unit = linear_workgroup(group, groups) * 256u + thread;
    if (unit >= params.units) {
        return;
    }
    let tile = unit / (TILE * UNITS);
    let row = tile / params.tiles * TILE + line_at(unit / UNITS % TILE);
    let column = tile % params.tiles * DEPTH + unit % UNITS * 8u;
    y[params.first_unit + unit] =
        vec4<u32>(pair_at(row, column), pair_at(row, column + 2u), pair_at(row, column + 4u), pair_at(row, column + 6u));
}
