// Mean and sum of squared deviations of each channel over one tile of at most tile_tokens tokens of one window.
//
// Eight rows at a time: their own mean and deviations in registers, then Chan's merge into the tile's. Values are taken relative
// to the tile's first row, so a mean a thousand times the deviation costs no digits, and no sum of squares is ever subtracted.
struct Params {
    channels: u32,
    window_tokens: u32,
    tile_tokens: u32,
    tiles_per_window: u32,
    tiles: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
// [tiles, channels] of mean and sum of squared deviations.
@group(0) @binding(2) var<storage, read_write> tile_moments: array<vec2<f32>>;

const ROWS = 8u;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let channel = group.x * 64u + thread;
    let tile = group.y + group.z * groups.y;
    if (channel >= params.channels || tile >= params.tiles) {
        return;
    }
    let window = tile / params.tiles_per_window;
    let first_token = tile % params.tiles_per_window * params.tile_tokens;
    let tokens = min(params.tile_tokens, params.window_tokens - first_token);
    let start = (window * params.window_tokens + first_token) * params.channels + channel;
    let pivot = x[start];
    var mean = 0.0;
    var m2 = 0.0;
    for (var row = 0u; row < tokens; row += ROWS) {
        // Vectors and not an array: what a loop indexes would live in memory. Rows beyond the last one count nothing.
        let first = row + vec4(0u, 1u, 2u, 3u);
        let second = first + 4u;
        let is_first = vec4<f32>(first < vec4(tokens));
        let is_second = vec4<f32>(second < vec4(tokens));
        let first_values = four_rows(start, min(first, vec4(tokens - 1u))) - pivot;
        let second_values = four_rows(start, min(second, vec4(tokens - 1u))) - pivot;
        let rows = f32(min(ROWS, tokens - row));
        let rows_mean = (dot(first_values, is_first) + dot(second_values, is_second)) / rows;
        let first_deviations = (first_values - rows_mean) * is_first;
        let second_deviations = (second_values - rows_mean) * is_second;
        let rows_m2 = dot(first_deviations, first_deviations) + dot(second_deviations, second_deviations);
        let delta = rows_mean - mean;
        let share = rows / (f32(row) + rows);
        mean += delta * share;
        m2 += rows_m2 + delta * delta * f32(row) * share;
    }
    tile_moments[tile * params.channels + channel] = vec2<f32>(pivot + mean, m2);
}

fn four_rows(start: u32, rows: vec4<u32>) -> vec4<f32> {
    let at = start + rows * params.channels;
    return vec4(x[at.x], x[at.y], x[at.z], x[at.w]);
}
