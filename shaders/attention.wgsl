// Causal grouped-query attention with an online softmax: one workgroup a window, head and block of 16 queries. Keys and values
// pass through workgroup memory KEYS at a time, so no [tokens, tokens] matrix exists anywhere.
//
// Four threads share a query: each scores a quarter of the keys and sums a quarter of the head's channels.
//#include shared/workgroup.wgsl
override HEAD_DIM: u32 = 64u;
// A multiple of 4; fewer for larger heads, so that the tiles fit the workgroup memory of every backend.
override KEYS: u32 = 16u;

struct Params {
    window_tokens: u32,
    heads: u32,
    key_value_heads: u32,
    // Keys a query sees, itself included.
    reach: u32,
    blocks_per_window: u32,
    workgroups: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

const QUERIES = 16u;
const LANES = 4u;
// Channels a thread can sum: head_dim up to 256.
const MAXIMUM_CHANNELS = 64u;
// Below every score; WGSL has no infinity.
const LOWEST = -3.0e38;

var<workgroup> q_tile: array<f32, QUERIES * HEAD_DIM>;
// Keys, then the values of the same tokens.
var<workgroup> kv_tile: array<f32, KEYS * HEAD_DIM>;
var<workgroup> scores: array<f32, QUERIES * KEYS>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let task = linear_workgroup(group, groups);
    if (task >= params.workgroups) {
        return;
    }
    let block = task % params.blocks_per_window;
    let head = task / params.blocks_per_window % params.heads;
    let window = task / (params.blocks_per_window * params.heads);
    let kv_head = head / (params.heads / params.key_value_heads);
    let first_token = window * params.window_tokens;
    let first_query = block * QUERIES;
    let q_stride = params.heads * HEAD_DIM;
    let kv_stride = params.key_value_heads * HEAD_DIM;

    for (var i = thread; i < QUERIES * HEAD_DIM; i += 64u) {
        let query = first_query + i / HEAD_DIM;
        var value = 0.0;
        if (query < params.window_tokens) {
            value = q[(first_token + query) * q_stride + head * HEAD_DIM + i % HEAD_DIM];
        }
        q_tile[i] = value;
    }

    let row = thread / LANES;
    let lane = thread % LANES;
    let query = first_query + row;
    var largest = LOWEST;
    var sum = 0.0;
    var channels: array<f32, MAXIMUM_CHANNELS>;
    for (var c = 0u; c < MAXIMUM_CHANNELS; c++) {
        channels[c] = 0.0;
    }

    let end = min(first_query + QUERIES, params.window_tokens);
    let begin = (first_query + 1u) - min(first_query + 1u, params.reach);
    for (var first_key = begin; first_key < end; first_key += KEYS) {
        for (var i = thread; i < KEYS * HEAD_DIM; i += 64u) {
            let key = first_key + i / HEAD_DIM;
            var value = 0.0;
            if (key < params.window_tokens) {
                value = k[(first_token + key) * kv_stride + kv_head * HEAD_DIM + i % HEAD_DIM];
            }
            kv_tile[i] = value;
        }
        workgroupBarrier();
        for (var i = lane; i < KEYS; i += LANES) {
            var score = 0.0;
            for (var c = 0u; c < HEAD_DIM; c++) {
                score += q_tile[row * HEAD_DIM + c] * kv_tile[i * HEAD_DIM + c];
            }
            let key = first_key + i;
            let visible = key <= query && query - key < params.reach;
            scores[row * KEYS + i] = select(LOWEST, score * params.scale, visible);
        }
        workgroupBarrier();
        for (var i = thread; i < KEYS * HEAD_DIM; i += 64u) {
            let key = first_key + i / HEAD_DIM;
            var value = 0.0;
            if (key < params.window_tokens) {
                value = v[(first_token + key) * kv_stride + kv_head * HEAD_DIM + i % HEAD_DIM];
            }
            kv_tile[i] = value;
        }
        var tile_largest = largest;
        for (var i = 0u; i < KEYS; i++) {
            tile_largest = max(tile_largest, scores[row * KEYS + i]);
        }
        // While a query has seen no visible key, everything it gathered is scaled away by the first one it sees.
        let rescale = exp(largest - tile_largest);
        largest = tile_largest;
        sum *= rescale;
        for (var c = 0u; c * LANES < HEAD_DIM; c++) {
            channels[c] *= rescale;
        }
        workgroupBarrier();
        for (var i = 0u; i < KEYS; i++) {
            let probability = exp(scores[row * KEYS + i] - largest);
            sum += probability;
            for (var c = 0u; c * LANES + lane < HEAD_DIM; c++) {
                channels[c] += probability * kv_tile[i * HEAD_DIM + c * LANES + lane];
            }
        }
        workgroupBarrier();
    }

    if (query < params.window_tokens) {
        for (var c = 0u; c * LANES + lane < HEAD_DIM; c++) {
            output[(first_token + query) * q_stride + head * HEAD_DIM + c * LANES + lane] = channels[c] / sum;
        }
    }
}
