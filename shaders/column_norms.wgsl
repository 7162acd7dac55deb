// Per column of a weight panel [rows, columns]: adds the sum of squares and the sum of absolute values to norms[columns]. A workgroup takes
// as many columns as a tile has, a thread one column of every eighth row. Sums over some rows are formed first and added then, which keeps
// the rounding of thousands of rows small.
//#include shared/weight.wgsl
//#include shared/tiles.wgsl
// Lines of the panel's tiles, or 1 if its rows follow one another.
override TILE: u32 = 1u;

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> norms: array<vec2<f32>>;

const LANES = 8u;
const ROWS = 64u; // of a thread, summed first

var<workgroup> partial: array<vec2<f32>, 256>;

fn place(row: u32, column: u32) -> u32 {
    if (TILE == 1u) {
        return row * params.columns + column;
    }
    let tiles = (params.columns + DEPTH - 1u) / DEPTH;
    return ((row / TILE * tiles + column / DEPTH) * TILE + place_of(row % TILE)) * DEPTH + column % DEPTH;
}

fn four_at(rows: vec4<u32>, column: u32) -> vec4<f32> {
    return vec4<f32>(
        weight_at(place(rows.x, column)),
        weight_at(place(rows.y, column)),
        weight_at(place(rows.z, column)),
        weight_at(place(rows.w, column)),
    );
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = group.x * DEPTH + thread % DEPTH;
    let last = params.columns - 1u;
    var total = vec2<f32>();
    for (var first = thread / DEPTH; first < params.rows; first += ROWS * LANES) {
        var part = vec2<f32>();
        for (var row = first; row < min(first + ROWS * LANES, params.rows); row += 4u * LANES) {
            // Four at once, so that memory is waited for a quarter as often.
            let rows = row + LANES * vec4<u32>(0u, 1u, 2u, 3u);
            let values = four_at(min(rows, vec4<u32>(params.rows - 1u)), min(column, last));
            let exist = select(vec4<f32>(), values, rows < vec4<u32>(params.rows));
            part += vec2<f32>(dot(exist, exist), dot(abs(exist), vec4<f32>(1.0)));
        }
        total += part;
    }
    partial[thread] = total;
    workgroupBarrier();
    if (thread < DEPTH && column <= last) {
        for (var lane = 1u; lane < LANES; lane++) {
            total += partial[lane * DEPTH + thread];
        }
        norms[column] += total;
    }
}
