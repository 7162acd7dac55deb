// Merges the tiles of a batch of windows, in order, into the running moments of their slots (Chan, Golub, LeVeque).
//
// A slot's first tile gives its pivot; means are kept relative to it, which keeps f32 exact enough when the mean is large.
struct Params {
    channels: u32,
    window_tokens: u32,
    tile_tokens: u32,
    tiles_per_window: u32,
    windows: u32,
    first_window: u32,
    windows_per_slot: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tile_moments: array<vec2<f32>>;
// [slots, channels] of pivot, mean relative to the pivot, and sum of squared deviations.
@group(0) @binding(2) var<storage, read_write> slot_moments: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let channel = group.x * 64u + thread;
    if (channel >= params.channels) {
        return;
    }
    for (var offset = 0u; offset < params.windows; offset++) {
        let window = params.first_window + offset;
        let slot = window / params.windows_per_slot * params.channels + channel;
        var state = slot_moments[slot];
        var count = window % params.windows_per_slot * params.window_tokens;
        for (var tile = 0u; tile < params.tiles_per_window; tile++) {
            let tokens = min(params.tile_tokens, params.window_tokens - tile * params.tile_tokens);
            let moments = tile_moments[(offset * params.tiles_per_window + tile) * params.channels + channel];
            if (count == 0u) {
                state = vec4<f32>(moments.x, 0.0, moments.y, 0.0);
            } else {
                let delta = (moments.x - state.x) - state.y;
                let share = f32(tokens) / f32(count + tokens);
                state.y += delta * share;
                state.z += moments.y + delta * delta * f32(count) * share;
            }
            count += tokens;
        }
        slot_moments[slot] = state;
    }
}
