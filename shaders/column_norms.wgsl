// Per column of a weight panel [rows, columns]: adds the sum of squares and the sum of absolute values to norms[columns].
// Sums over 64 rows are formed first and added then, which keeps the rounding of thousands of rows small.
//#include shared/weight.wgsl
struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> norms: array<vec2<f32>>;

const ROWS = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = group.x * 64u + thread;
    if (column >= params.columns) {
        return;
    }
    var total = norms[column];
    for (var first = 0u; first < params.rows; first += ROWS) {
        var part = vec2<f32>();
        for (var row = first; row < min(first + ROWS, params.rows); row++) {
            let value = weight_at(row * params.columns + column);
            part += vec2<f32>(value * value, abs(value));
        }
        total += part;
    }
    norms[column] = total;
}
