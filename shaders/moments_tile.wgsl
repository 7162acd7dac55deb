// Mean and sum of squared deviations of each channel over one tile of at most TILE_TOKENS tokens of one window.
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
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let channel = group.x * 64u + thread;
    let tile = group.y + group.z * 65535u;
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
    var values: array<f32, ROWS>;
    for (var row = 0u; row < tokens; row += ROWS) {
        let rows = min(ROWS, tokens - row);
        var total = 0.0;
        for (var i = 0u; i < rows; i++) {
            values[i] = x[start + (row + i) * params.channels] - pivot;
            total += values[i];
        }
        let rows_mean = total / f32(rows);
        var rows_m2 = 0.0;
        for (var i = 0u; i < rows; i++) {
            let deviation = values[i] - rows_mean;
            rows_m2 += deviation * deviation;
        }
        let delta = rows_mean - mean;
        let share = f32(rows) / f32(row + rows);
        mean += delta * share;
        m2 += rows_m2 + delta * delta * f32(row) * share;
    }
    tile_moments[tile * params.channels + channel] = vec2<f32>(pivot + mean, m2);
}
