// Merges the tiles of a batch of windows, in order, into the running moments of their slots (Chan, Golub, LeVeque).
//
// A slot's first tile gives its pivot; means are kept relative to it, which keeps f32 exact enough when the mean is large. Four tiles are read
// at once: what waits for memory again and again takes as long as the pass over the activations.
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

// What is known of a slot so far.
struct Running {
    slot: u32,
    moments: vec4<f32>,
}

// Takes in a tile, unless it is none of the batch; tiles come in order, so the first of a new slot is the slot's first.
fn take(running: ptr<function, Running>, tile: u32, moments: vec2<f32>, channel: u32) {
    if (tile >= params.windows * params.tiles_per_window) {
        return;
    }
    let window = params.first_window + tile / params.tiles_per_window;
    let first_token = tile % params.tiles_per_window * params.tile_tokens;
    let tokens = min(params.tile_tokens, params.window_tokens - first_token);
    let count = window % params.windows_per_slot * params.window_tokens + first_token;
    let slot = window / params.windows_per_slot;
    if (slot != (*running).slot) {
        slot_moments[(*running).slot * params.channels + channel] = (*running).moments;
        (*running).slot = slot;
    }
    if (count == 0u) {
        (*running).moments = vec4<f32>(moments.x, 0.0, moments.y, 0.0);
        return;
    }
    let known = (*running).moments;
    let delta = (moments.x - known.x) - known.y;
    let share = f32(tokens) / f32(count + tokens);
    (*running).moments.y += delta * share;
    (*running).moments.z += moments.y + delta * delta * f32(count) * share;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let channel = group.x * 64u + thread;
    if (channel >= params.channels) {
        return;
    }
    let tiles = params.windows * params.tiles_per_window;
    var running: Running;
    running.slot = params.first_window / params.windows_per_slot;
    running.moments = slot_moments[running.slot * params.channels + channel];
    for (var tile = 0u; tile < tiles; tile += 4u) {
        let at = min(tile + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(tiles - 1u)) * params.channels + channel;
        let first = tile_moments[at.x];
        let second = tile_moments[at.y];
        let third = tile_moments[at.z];
        let fourth = tile_moments[at.w];
        take(&running, tile, first, channel);
        take(&running, tile + 1u, second, channel);
        take(&running, tile + 2u, third, channel);
        take(&running, tile + 3u, fourth, channel);
    }
    slot_moments[running.slot * params.channels + channel] = running.moments;
}
