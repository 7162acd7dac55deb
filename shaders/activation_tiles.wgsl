// Activations [rows, columns] as f16 in tiles; see shared/tiles.wgsl. Each 16 rows are scaled by the power of two that brings their largest
// number between 2^14 and 2^15: f16 then holds it, whatever it is, and numbers 2^28 times smaller lose no digits. scales[row / 16] undoes
// it, exactly. One workgroup for 16 rows.
enable f16;
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
//#include shared/tiles.wgsl
//#include shared/power.wgsl
override TILE: u32 = 128u;
// 0: lines lie in their order.
override PAIRED: u32 = 1u;

struct Params {
    rows: u32,
    columns: u32,
    // Tiles along the columns.
    tiles: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;

const ROWS = 16u;

// Four numbers of a row from a multiple of 4 on, zero where they do not exist. Read there is what does.
fn quad_at(row: u32, column: u32) -> vec4<f32> {
    let start = min(row, params.rows - 1u) * params.columns;
    var quad: vec4<f32>;
    if (params.columns % 4u == 0u) {
        quad = x[(start + min(column, params.columns - 4u)) / 4u];
    } else {
        for (var i = 0u; i < 4u; i++) {
            let index = start + min(column + i, params.columns - 1u);
            quad[i] = x[index / 4u][index % 4u];
        }
    }
    let columns = column + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(), quad, columns < vec4<u32>(params.columns) & vec4<bool>(row < params.rows));
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_row = linear_workgroup(group, groups) * ROWS;
    // Workgroups in more than one row may be more than there are lines, filled up to whole tiles.
    if (first_row >= (params.rows + TILE - 1u) / TILE * TILE) {
        return;
    }
    // 64 units of each tile, as they lie there.
    let place_among_rows = thread / UNITS % ROWS;
    let row = first_row + select(place_among_rows, line_at(place_among_rows), PAIRED != 0u);
    let column = thread / (UNITS * ROWS) * DEPTH + thread % UNITS * 8u;
    var largest = 0.0;
    for (var i = column; i < params.columns; i += 4u * DEPTH) {
        let quads = max(abs(quad_at(row, i)), abs(quad_at(row, i + 4u)));
        largest = max(largest, max(max(quads.x, quads.y), max(quads.z, quads.w)));
    }
    let exponent = scale_exponent(workgroup_max(thread, largest));
    let factor = scale_to_f16(exponent);
    let place = ((first_row / TILE * params.tiles + thread / (UNITS * ROWS)) * TILE + first_row % TILE) * UNITS + thread % (UNITS * ROWS);
    for (var i = 0u; column + i * DEPTH < params.tiles * DEPTH; i += 4u) {
        let unit = place + i * TILE * UNITS;
        y[2u * unit] = vec4<f16>(quad_at(row, column + i * DEPTH) * factor);
        y[2u * unit + 1u] = vec4<f16>(quad_at(row, column + i * DEPTH + 4u) * factor);
    }
    if (thread == 0u && first_row < params.rows) {
        scales[first_row / ROWS] = scale_from_f16(exponent);
    }
}
