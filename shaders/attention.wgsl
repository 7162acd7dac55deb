// Causal grouped-query attention with an online softmax: one workgroup a window, head and block of 64 queries. Keys and values pass
// through workgroup memory 32 at a time, so no [tokens, tokens] matrix exists anywhere.
//
// The 16 x 16 threads stand over tiles: of the scores a thread computes 4 queries by 2 keys, 16 channels at a time; of the output it
// keeps 4 queries by 4 channels in registers, out of every 64 that the head has. Workgroup memory is 16 KiB, which every adapter has.
//#include shared/attention_params.wgsl
//#include shared/outer.wgsl

@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;

const QUERIES = 64u;
const KEYS = 32u;
const DEPTH = 16u;
// Channels of the output that the workgroup's threads stand over at once.
const WIDTH = 64u;
// Quads of queries, and of keys, in a line of their tiles, and one more against bank conflicts.
const QUERY_LINE = 17u;
const KEY_LINE = 9u;
// Where the tile of keys begins behind that of the queries.
const KEY_TILE = 272u; // DEPTH * QUERY_LINE

// Queries and keys of some channels, or the values of the keys: [keys, quads of channels].
var<workgroup> staged: array<vec4<f32>, 512>;
// Largest scores, then probabilities, then their sums: [keys or columns of threads, quads of queries].
var<workgroup> scores: array<vec4<f32>, 512>;

// Where one channel of four consecutive tokens lies. Beyond the edges it is that of the last token, or the last channel: what is read in a
// branch is waited for where the branch ends. Its scores are masked or not written.
fn channel_places(start: u32, stride: u32, token: u32, channel: u32) -> vec4<u32> {
    let tokens = min(token + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.window_tokens - 1u));
    return start + tokens * stride + min(channel, HEAD_DIM - 1u);
}

// Four consecutive channels of a token's values.
fn value_quad(start: u32, stride: u32, token: u32, channel: u32) -> vec4<f32> {
    let first = start + min(token, params.window_tokens - 1u) * stride;
    if (HEAD_DIM % 4u == 0u) {
        let at = first + min(channel, HEAD_DIM - 4u);
        return vec4<f32>(v[at], v[at + 1u], v[at + 2u], v[at + 3u]);
    }
    let at = first + min(channel + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(HEAD_DIM - 1u));
    return vec4<f32>(v[at.x], v[at.y], v[at.z], v[at.w]);
}

// Scales the sums of 4 queries by 4 channels, of the 64 from `first_channel` on, and adds the values of 32 keys as the probabilities
// weigh them.
fn weigh(
    sums: ptr<function, mat4x4<f32>>,
    factors: vec4<f32>,
    first_channel: u32,
    start: u32,
    stride: u32,
    first_key: u32,
    line: u32,
    column: u32,
) {
    let channel = first_channel + column * 4u;
    let near = value_quad(start, stride, first_key + line, channel);
    let far = value_quad(start, stride, first_key + line + 16u, channel);
    staged[line * 16u + column] = near;
    staged[(line + 16u) * 16u + column] = far;
    workgroupBarrier();
    if (channel < HEAD_DIM) {
        let before = *sums;
        *sums = mat4x4<f32>(before[0] * factors.x, before[1] * factors.y, before[2] * factors.z, before[3] * factors.w);
        for (var key = 0u; key < KEYS; key++) {
            *sums += outer(scores[key * 16u + line], staged[key * 16u + column]);
        }
    }
    workgroupBarrier();
}

fn store_square(sums: mat4x4<f32>, start: u32, stride: u32, query: u32, channel: u32, total: vec4<f32>) {
    store_quad(sums[0] / total.x, start, stride, query, channel);
    store_quad(sums[1] / total.y, start, stride, query + 1u, channel);
    store_quad(sums[2] / total.z, start, stride, query + 2u, channel);
    store_quad(sums[3] / total.w, start, stride, query + 3u, channel);
}

fn store_quad(values: vec4<f32>, start: u32, stride: u32, query: u32, channel: u32) {
    if (query < params.window_tokens) {
        let first = start + query * stride;
        store(values.x, first, channel);
        store(values.y, first, channel + 1u);
        store(values.z, first, channel + 2u);
        store(values.w, first, channel + 3u);
    }
}

fn store(value: f32, first: u32, channel: u32) {
    if (channel < HEAD_DIM) {
        output[first + channel] = value;
    }
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let task = params.first_row + group.y;
    let block = task % params.blocks_per_window;
    let head = task / params.blocks_per_window % params.heads;
    let window = task / (params.blocks_per_window * params.heads);
    let kv_head = head / (params.heads / params.key_value_heads);
    let q_stride = params.heads * HEAD_DIM;
    let kv_stride = params.key_value_heads * HEAD_DIM;
    let q_start = window * params.window_tokens * q_stride + head * HEAD_DIM;
    let kv_start = window * params.window_tokens * kv_stride + kv_head * HEAD_DIM;
    let first_query = block * QUERIES;
    let column = local.x;
    let line = local.y;
    let query = first_query + line * 4u;

    var largest = vec4<f32>(LOWEST);
    // Of this thread's keys only.
    var total = vec4<f32>();
    // As many as the head has times 64 channels; an array of them would be indexed at run time.
    var sums_0: mat4x4<f32>;
    var sums_1: mat4x4<f32>;
    var sums_2: mat4x4<f32>;
    var sums_3: mat4x4<f32>;

    let end = min(first_query + QUERIES, params.window_tokens);
    let begin = (first_query + 1u) - min(first_query + 1u, params.reach);
    for (var first_key = begin; first_key < end; first_key += KEYS) {
        var first = vec4<f32>();
        var second = vec4<f32>();
        for (var depth = 0u; depth < HEAD_DIM; depth += DEPTH) {
            let channel = depth + thread % DEPTH;
            let quad = thread / DEPTH;
            let q_at = channel_places(q_start, q_stride, first_query + quad * 4u, channel);
            let k_at = channel_places(kv_start, kv_stride, first_key + quad % (KEYS / 4u) * 4u, channel);
            let queries = vec4<f32>(q[q_at.x], q[q_at.y], q[q_at.z], q[q_at.w]);
            let keys = vec4<f32>(k[k_at.x], k[k_at.y], k[k_at.z], k[k_at.w]);
            staged[thread % DEPTH * QUERY_LINE + quad] = queries;
            if (quad * 4u < KEYS) {
                staged[KEY_TILE + thread % DEPTH * KEY_LINE + quad] = keys;
            }
            workgroupBarrier();
            let deep = min(DEPTH, HEAD_DIM - depth);
            for (var c = 0u; c < deep; c++) {
                let queries = staged[c * QUERY_LINE + line];
                let four = staged[KEY_TILE + c * KEY_LINE + column / 2u];
                let keys = select(four.xy, four.zw, column % 2u == 1u);
                first += queries * keys.x;
                second += queries * keys.y;
            }
            workgroupBarrier();
        }
        let key = first_key + column * 2u;
        let distance = vec4<u32>(query, query + 1u, query + 2u, query + 3u) - key;
        // For a key that comes after its query the difference wraps, and is beyond any reach.
        first = select(vec4<f32>(LOWEST), first * params.scale, distance < vec4<u32>(params.reach));
        second = select(vec4<f32>(LOWEST), second * params.scale, distance - 1u < vec4<u32>(params.reach));
        scores[column * 16u + line] = max(first, second);
        workgroupBarrier();
        var tile_largest = largest;
        for (var i = 0u; i < 16u; i++) {
            tile_largest = max(tile_largest, scores[i * 16u + line]);
        }
        // While a query has seen no visible key, everything it gathered is scaled away by the first one it sees.
        let factors = exp(largest - tile_largest);
        largest = tile_largest;
        first = exp(first - largest);
        second = exp(second - largest);
        total = total * factors + first + second;
        workgroupBarrier();
        scores[column * 32u + line] = first;
        scores[column * 32u + 16u + line] = second;
        // The first of these waits for the probabilities too.
        weigh(&sums_0, factors, 0u, kv_start, kv_stride, first_key, line, column);
        if (HEAD_DIM > WIDTH) {
            weigh(&sums_1, factors, WIDTH, kv_start, kv_stride, first_key, line, column);
        }
        if (HEAD_DIM > 2u * WIDTH) {
            weigh(&sums_2, factors, 2u * WIDTH, kv_start, kv_stride, first_key, line, column);
        }
        if (HEAD_DIM > 3u * WIDTH) {
            weigh(&sums_3, factors, 3u * WIDTH, kv_start, kv_stride, first_key, line, column);
        }
    }

    scores[column * 16u + line] = total;
    workgroupBarrier();
    total = vec4<f32>();
    for (var i = 0u; i < 16u; i++) {
        total += scores[i * 16u + line];
    }
    let channel = column * 4u;
    store_square(sums_0, q_start, q_stride, query, channel, total);
    if (HEAD_DIM > WIDTH) {
        store_square(sums_1, q_start, q_stride, query, channel + WIDTH, total);
    }
    if (HEAD_DIM > 2u * WIDTH) {
        store_square(sums_2, q_start, q_stride, query, channel + 2u * WIDTH, total);
    }
    if (HEAD_DIM > 3u * WIDTH) {
        store_square(sums_3, q_start, q_stride, query, channel + 3u * WIDTH, total);
    }
}
