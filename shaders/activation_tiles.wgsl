// Activations [rows, columns] as f16 in tiles; see shared/tiles.wgsl. Each 16 rows are scaled by the power of two that brings their largest
// number between 2^14 and 2^15: f16 then holds it, whatever it is, and numbers 2^28 times smaller lose no digits. scales[row / 16] undoes
// it, exactly. One workgroup for 16 rows; a thread reads four units at once, so that memory is waited for a quarter as often.
enable f16;
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
//#include shared/tiles.wgsl
//#include shared/power.wgsl
override TILE: u32 = 128u;
// Whether lines lie in pairs, and whether rows begin at multiples of four numbers.
override PAIRED: bool = true;
override ALIGNED: bool = false;

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
// Units of 16 rows of a tile, and so of the threads that work on one; and tiles that the workgroup works on together.
const SHARED = UNITS * ROWS;
const TOGETHER = 256u / SHARED;

struct Unit {
    low: vec4<f32>,
    high: vec4<f32>,
}

// An array would live in memory where a compiler does not see that its places are constant.
struct Four {
    first: Unit,
    second: Unit,
    third: Unit,
    fourth: Unit,
}

// Four numbers of a row from a multiple of 4 on, zero where they do not exist. Read there is what does.
fn quad_at(row: u32, column: u32) -> vec4<f32> {
    let start = min(row, params.rows - 1u) * params.columns;
    var quad: vec4<f32>;
    if (ALIGNED) {
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

fn unit_at(row: u32, column: u32) -> Unit {
    return Unit(quad_at(row, column), quad_at(row, column + 4u));
}

// A thread's next four units, one of every TOGETHER tiles.
fn four_at(row: u32, column: u32) -> Four {
    let step = TOGETHER * DEPTH;
    return Four(unit_at(row, column), unit_at(row, column + step), unit_at(row, column + 2u * step), unit_at(row, column + 3u * step));
}

fn largest_of(unit: Unit) -> f32 {
    let quad = max(abs(unit.low), abs(unit.high));
    return max(max(quad.x, quad.y), max(quad.z, quad.w));
}

// A thread's unit of a tile.
fn write(unit: Unit, factor: f32, first_place: u32, tile: u32) {
    if (tile < params.tiles) {
        let place = 2u * (first_place + tile * TILE * UNITS);
        y[place] = vec4<f16>(unit.low * factor);
        y[place + 1u] = vec4<f16>(unit.high * factor);
    }
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
    let place_in_rows = thread / UNITS % ROWS;
    let row = first_row + select(place_in_rows, line_at(place_in_rows), PAIRED);
    let column = thread % UNITS * 8u;
    var largest = 0.0;
    for (var tile = thread / SHARED; tile < params.tiles; tile += 4u * TOGETHER) {
        let units = four_at(row, tile * DEPTH + column);
        let front = max(largest_of(units.first), largest_of(units.second));
        let back = max(largest_of(units.third), largest_of(units.fourth));
        largest = max(largest, max(front, back));
    }
    let exponent = scale_exponent(workgroup_max(thread, largest));
    let factor = scale_to_f16(exponent);
    let first_place = (first_row / TILE * params.tiles * TILE + first_row % TILE) * UNITS + thread % SHARED;
    for (var tile = thread / SHARED; tile < params.tiles; tile += 4u * TOGETHER) {
        let units = four_at(row, tile * DEPTH + column);
        write(units.first, factor, first_place, tile);
        write(units.second, factor, first_place, tile + TOGETHER);
        write(units.third, factor, first_place, tile + 2u * TOGETHER);
        write(units.fourth, factor, first_place, tile + 3u * TOGETHER);
    }
    if (thread == 0u && first_row < params.rows) {
        scales[first_row / ROWS] = scale_from_f16(exponent);
    }
}
