// Causal grouped-query attention on matrix units: f16 operands, f32 scores, softmax and sums. For windows of a multiple of 16 tokens, and
// heads of a multiple of SIDE channels.
//
// A workgroup takes 4 * SIDE queries of a head, SIDE each of its four subgroups, and goes over their keys twice: first for the largest score
// of each query and the sum of exponentials; then scores are computed again, and values summed as the probabilities weigh them, so that no
// sum is ever scaled, which matrices of sums cannot be, row by row. Operands come from tiles (see shared/tiles.wgsl): queries directly, and
// once as far as registers hold them; keys and values by way of workgroup memory, where scores and probabilities pass too, and what is
// staged next is read meanwhile. If the subgroups are not of the size that the constants say, nothing is written.
override STEPS: u32 = 4u; // KEYS * HEAD_DIM / 8 / THREADS, rounded up

@group(0) @binding(1) var<storage, read> q: array<Staged>;
@group(0) @binding(2) var<storage, read> k: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
// 16 tokens times their number are what they were.
@group(0) @binding(5) var<storage, read> q_scales: array<f32>;
@group(0) @binding(6) var<storage, read> k_scales: array<f32>;
@group(0) @binding(7) var<storage, read> v_scales: array<f32>;

// Keys of a tile.
const KEYS = 2u * SIDE;
// Numbers between two lines in workgroup memory: a few more than there are, against bank conflicts.
const SCORE_LINE = KEYS + 4u;
const PROBABILITY_LINE = KEYS + 8u;
override LINE: u32 = HEAD_DIM + 8u;
// STEPS of the smallest subgroups, of SIDE threads, and the largest heads, of 16 * SIDE channels.
const MOST_STEPS = SIDE;
// Probabilities are multiplied by it on their way through f16, which has fewer digits for small numbers.
const ENLARGED = 16384.0; // 2^14

var<workgroup> scores: array<Score, SUBGROUPS * SIDE * SCORE_LINE / UNIT>;
// Probabilities.
var<workgroup> left_tile: array<Staged, SUBGROUPS * SIDE * PROBABILITY_LINE / UNIT>;
// The keys of a tile, or their values.
var<workgroup> right_tile: array<Staged, KEYS * LINE / UNIT>;
// What is staged next, a unit of eight numbers with every step.
alias Ahead = array<vec4<u32>, MOST_STEPS>;
// Matrices of a subgroup's queries that stay in registers; those of larger heads are read again for every tile of keys.
const HELD = 8u;
alias Queries = array<Left, HELD>;

// What a subgroup works on: rows of activations, and columns of queries and of keys and values.
struct Task {
    window: u32,
    query: u32,
    head: u32,
    kv_head: u32,
}

// Where SIDE rows of a head begin, from some channel of it on, in tiles of rows of so many heads.
fn place(row: u32, head: u32, heads: u32, channel: u32) -> u32 {
    let first = head * HEAD_DIM + channel;
    let tile = row / TILE * ((heads * HEAD_DIM + DEPTH - 1u) / DEPTH) + first / DEPTH;
    return (tile * TILE + row % TILE) * DEPTH + first % DEPTH;
}

// The row where SIDE keys begin; beyond the window its last ones stand in, unseen.
fn key_row(task: Task, key: u32) -> u32 {
    return task.window + min(key, params.window_tokens - SIDE);
}

// Where the eight channels lie that are unit `n` of a tile of keys; those beyond the tile are its last ones again.
fn unit_place(task: Task, first_key: u32, n: u32) -> u32 {
    let unit = min(n, KEYS * HEAD_DIM / 8u - 1u);
    let key = unit / (HEAD_DIM / 8u);
    let row = key_row(task, first_key + key / SIDE * SIDE) + key % SIDE;
    return place(row, task.kv_head, params.key_value_heads, unit % (HEAD_DIM / 8u) * 8u) / 8u;
}

fn read_keys(ahead: ptr<function, Ahead>, task: Task, first_key: u32, thread: u32) {
    for (var i = 0u; i < STEPS; i++) {
        (*ahead)[i] = k[unit_place(task, first_key, thread + i * THREADS)];
    }
}

fn read_values(ahead: ptr<function, Ahead>, task: Task, first_key: u32, thread: u32) {
    for (var i = 0u; i < STEPS; i++) {
        (*ahead)[i] = v[unit_place(task, first_key, thread + i * THREADS)];
    }
}

fn stage_ahead(ahead: ptr<function, Ahead>, thread: u32) {
    for (var i = 0u; i < STEPS; i++) {
        let n = thread + i * THREADS;
        if (n < KEYS * HEAD_DIM / 8u) {
            let at = n / (HEAD_DIM / 8u) * LINE + n % (HEAD_DIM / 8u) * 8u;
            stage_right(at, quad_of((*ahead)[i].xy));
            stage_right(at + 4u, quad_of((*ahead)[i].zw));
        }
    }
}

// The queries of a subgroup, SIDE channels from some channel on.
fn queries_from(task: Task, channel: u32) -> Left {
    let at = place(task.window + task.query, task.head, params.heads, channel) / UNIT;
    let stride = DEPTH / UNIT;
    return coopLoadT<Left>(&q[at], stride);
}

// Adds what SIDE channels of queries and of staged keys, from a line on, give to their scores.
fn meet(queries: Left, channel: u32, line: u32, sum: Sum) -> Sum {
    let stride = LINE / UNIT;
    let keys = coopLoad<Right>(&right_tile[(line * LINE + channel) / UNIT], stride);
    return coopMultiplyAdd(queries, keys, sum);
}

// Leaves the scores of a subgroup's queries with the staged keys in workgroup memory.
fn score(task: Task, queries: ptr<function, Queries>, subgroup: u32, first_key: u32) {
    var near = meet((*queries)[0], 0u, 0u, Sum());
    var far = meet((*queries)[0], 0u, SIDE, Sum());
    if (HEAD_DIM > 1u * SIDE) {
        near = meet((*queries)[1], 1u * SIDE, 0u, near);
        far = meet((*queries)[1], 1u * SIDE, SIDE, far);
    }
    if (HEAD_DIM > 2u * SIDE) {
        near = meet((*queries)[2], 2u * SIDE, 0u, near);
        far = meet((*queries)[2], 2u * SIDE, SIDE, far);
    }
    if (HEAD_DIM > 3u * SIDE) {
        near = meet((*queries)[3], 3u * SIDE, 0u, near);
        far = meet((*queries)[3], 3u * SIDE, SIDE, far);
    }
    if (HEAD_DIM > 4u * SIDE) {
        near = meet((*queries)[4], 4u * SIDE, 0u, near);
        far = meet((*queries)[4], 4u * SIDE, SIDE, far);
    }
    if (HEAD_DIM > 5u * SIDE) {
        near = meet((*queries)[5], 5u * SIDE, 0u, near);
        far = meet((*queries)[5], 5u * SIDE, SIDE, far);
    }
    if (HEAD_DIM > 6u * SIDE) {
        near = meet((*queries)[6], 6u * SIDE, 0u, near);
        far = meet((*queries)[6], 6u * SIDE, SIDE, far);
    }
    if (HEAD_DIM > 7u * SIDE) {
        near = meet((*queries)[7], 7u * SIDE, 0u, near);
        far = meet((*queries)[7], 7u * SIDE, SIDE, far);
    }
    for (var channel = HELD * SIDE; channel < HEAD_DIM; channel += SIDE) {
        let more = queries_from(task, channel);
        near = meet(more, channel, 0u, near);
        far = meet(more, channel, SIDE, far);
    }
    let scale = q_scales[(task.window + task.query) / 16u] * params.scale;
    let near_scores = near * (scale * k_scales[key_row(task, first_key) / 16u]);
    let far_scores = far * (scale * k_scales[key_row(task, first_key + SIDE) / 16u]);
    let at = subgroup * SIDE * SCORE_LINE / UNIT;
    coopStoreT(near_scores, &scores[at], SCORE_LINE / UNIT);
    coopStoreT(far_scores, &scores[at + SIDE / UNIT], SCORE_LINE / UNIT);
}

// The scores of a query with four keys, far below all others where it does not see them.
fn visible_scores(query: u32, key: u32, place: u32) -> vec4<f32> {
    // For a key that comes after its query the difference wraps, and is beyond any reach.
    let distance = query - (key + vec4<u32>(0u, 1u, 2u, 3u));
    return select(vec4<f32>(LOWEST), score_quad(place), distance < vec4<u32>(params.reach));
}

// Adds the staged values, of SIDE channels, as their probabilities weigh them.
fn weigh(sum: Sum, near: Left, far: Left, channel: u32) -> Sum {
    let stride = LINE / UNIT;
    let near_values = coopLoadT<Right>(&right_tile[channel / UNIT], stride);
    let far_values = coopLoadT<Right>(&right_tile[(SIDE * LINE + channel) / UNIT], stride);
    return coopMultiplyAdd(far, far_values, coopMultiplyAdd(near, near_values, sum));
}

fn store(sum: Sum, task: Task, channel: u32, writes: bool) {
    let stride = params.heads * HEAD_DIM;
    let at = (task.window + task.query) * stride + task.head * HEAD_DIM + channel;
    if (writes) {
        coopStoreT(sum, &output[at], stride);
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
) {
    // Should a driver make more or fewer subgroups of the threads, all they do is stay within the tiles.
    let subgroup = subgroup_id % SUBGROUPS;
    let lane = invocation % SUBGROUP_SIZE;
    let place_among_all = params.first_row + group.y;
    let first_of_block = place_among_all % params.blocks_per_window * SUBGROUPS * SIDE;
    let head = place_among_all / params.blocks_per_window % params.heads;
    let window = place_among_all / (params.blocks_per_window * params.heads) * params.window_tokens;
    let first_query = first_of_block + subgroup * SIDE;
    let task = Task(window, min(first_query, params.window_tokens - SIDE), head, head / (params.heads / params.key_value_heads));
    let end = min(first_of_block + SUBGROUPS * SIDE, params.window_tokens);
    let begin = (first_of_block + 1u - min(first_of_block + 1u, params.reach)) / SIDE * SIDE;
    // A thread's query, and its keys of a tile.
    let query = first_query + lane % SIDE;
    let line = subgroup * SIDE + lane % SIDE;
    let parts = SUBGROUP_SIZE / SIDE;
    let part = lane / SIDE;
    let part_keys = KEYS * SIDE / SUBGROUP_SIZE;
    let first_of_part = part * part_keys;
    let end_of_part = first_of_part + part_keys;

    var queries: Queries;
    queries[0] = queries_from(task, 0u);
    if (HEAD_DIM > 1u * SIDE) {
        queries[1] = queries_from(task, 1u * SIDE);
    }
    if (HEAD_DIM > 2u * SIDE) {
        queries[2] = queries_from(task, 2u * SIDE);
    }
    if (HEAD_DIM > 3u * SIDE) {
        queries[3] = queries_from(task, 3u * SIDE);
    }
    if (HEAD_DIM > 4u * SIDE) {
        queries[4] = queries_from(task, 4u * SIDE);
    }
    if (HEAD_DIM > 5u * SIDE) {
        queries[5] = queries_from(task, 5u * SIDE);
    }
    if (HEAD_DIM > 6u * SIDE) {
        queries[6] = queries_from(task, 6u * SIDE);
    }
    if (HEAD_DIM > 7u * SIDE) {
        queries[7] = queries_from(task, 7u * SIDE);
    }
    var ahead: Ahead;
    var largest = LOWEST;
    var total = 0.0;
    // Of the values that are seen: their probabilities make up for the differences.
    var scale = 0.0;
    read_keys(&ahead, task, begin, thread);
    for (var first_key = begin; first_key < end; first_key += KEYS) {
        stage_ahead(&ahead, thread);
        workgroupBarrier();
        read_keys(&ahead, task, first_key + KEYS, thread);
        score(task, &queries, subgroup, first_key);
        workgroupBarrier();
        let before = largest;
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            let quad = visible_scores(query, first_key + key, line * SCORE_LINE + key);
            largest = max(largest, max(max(quad.x, quad.y), max(quad.z, quad.w)));
        }
        // While a query has seen no visible key, everything it gathered is scaled away by the first one it sees.
        total *= exp(before - largest);
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            total += dot(exp(visible_scores(query, first_key + key, line * SCORE_LINE + key) - largest), vec4<f32>(1.0));
        }
        scale = max(scale, max(v_scales[key_row(task, first_key) / 16u], v_scales[key_row(task, first_key + SIDE) / 16u]));
    }
    workgroupBarrier();
    // Of the parts of a query.
    set_score_pair(line * SCORE_LINE + part * 4u, vec2<f32>(largest, total));
    workgroupBarrier();
    for (var i = 0u; i < parts; i++) {
        largest = max(largest, score_pair(line * SCORE_LINE + i * 4u).x);
    }
    total = 0.0;
    for (var i = 0u; i < parts; i++) {
        let other = score_pair(line * SCORE_LINE + i * 4u);
        total += other.y * exp(other.x - largest);
    }

    // Indexed by constants only, so that every driver keeps them in registers.
    var sums: array<Sum, 16>;
    let enlarged = ENLARGED / total;
    read_keys(&ahead, task, begin, thread);
    for (var first_key = begin; first_key < end; first_key += KEYS) {
        stage_ahead(&ahead, thread);
        workgroupBarrier();
        read_values(&ahead, task, first_key, thread);
        score(task, &queries, subgroup, first_key);
        workgroupBarrier();
        stage_ahead(&ahead, thread);
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            let factor = enlarged * (v_scales[key_row(task, first_key + key / SIDE * SIDE) / 16u] / scale);
            let quad = exp(visible_scores(query, first_key + key, line * SCORE_LINE + key) - largest) * factor;
            stage_left(line * PROBABILITY_LINE + key, vec4<f16>(quad));
        }
        workgroupBarrier();
        read_keys(&ahead, task, first_key + KEYS, thread);
        let at = subgroup * SIDE * PROBABILITY_LINE / UNIT;
        let near = coopLoadT<Left>(&left_tile[at], PROBABILITY_LINE / UNIT);
        let far = coopLoadT<Left>(&left_tile[at + SIDE / UNIT], PROBABILITY_LINE / UNIT);
        sums[0] = weigh(sums[0], near, far, 0u);
        if (HEAD_DIM > SIDE) {
            sums[1] = weigh(sums[1], near, far, SIDE);
        }
        if (HEAD_DIM > 2u * SIDE) {
            sums[2] = weigh(sums[2], near, far, 2u * SIDE);
        }
        if (HEAD_DIM > 3u * SIDE) {
            sums[3] = weigh(sums[3], near, far, 3u * SIDE);
        }
        if (HEAD_DIM > 4u * SIDE) {
            sums[4] = weigh(sums[4], near, far, 4u * SIDE);
        }
        if (HEAD_DIM > 5u * SIDE) {
            sums[5] = weigh(sums[5], near, far, 5u * SIDE);
        }
        if (HEAD_DIM > 6u * SIDE) {
            sums[6] = weigh(sums[6], near, far, 6u * SIDE);
        }
        if (HEAD_DIM > 7u * SIDE) {
            sums[7] = weigh(sums[7], near, far, 7u * SIDE);
        }
        if (HEAD_DIM > 8u * SIDE) {
            sums[8] = weigh(sums[8], near, far, 8u * SIDE);
        }
        if (HEAD_DIM > 9u * SIDE) {
            sums[9] = weigh(sums[9], near, far, 9u * SIDE);
        }
        if (HEAD_DIM > 10u * SIDE) {
            sums[10] = weigh(sums[10], near, far, 10u * SIDE);
        }
        if (HEAD_DIM > 11u * SIDE) {
            sums[11] = weigh(sums[11], near, far, 11u * SIDE);
        }
        if (HEAD_DIM > 12u * SIDE) {
            sums[12] = weigh(sums[12], near, far, 12u * SIDE);
        }
        if (HEAD_DIM > 13u * SIDE) {
            sums[13] = weigh(sums[13], near, far, 13u * SIDE);
        }
        if (HEAD_DIM > 14u * SIDE) {
            sums[14] = weigh(sums[14], near, far, 14u * SIDE);
        }
        if (HEAD_DIM > 15u * SIDE) {
            sums[15] = weigh(sums[15], near, far, 15u * SIDE);
        }
        workgroupBarrier();
    }
    let writes = subgroups == SUBGROUPS && first_query < params.window_tokens;
    let undo = scale / ENLARGED;
    store(sums[0] * undo, task, 0u, writes);
    if (HEAD_DIM > SIDE) {
        store(sums[1] * undo, task, SIDE, writes);
    }
    if (HEAD_DIM > 2u * SIDE) {
        store(sums[2] * undo, task, 2u * SIDE, writes);
    }
    if (HEAD_DIM > 3u * SIDE) {
        store(sums[3] * undo, task, 3u * SIDE, writes);
    }
    if (HEAD_DIM > 4u * SIDE) {
        store(sums[4] * undo, task, 4u * SIDE, writes);
    }
    if (HEAD_DIM > 5u * SIDE) {
        store(sums[5] * undo, task, 5u * SIDE, writes);
    }
    if (HEAD_DIM > 6u * SIDE) {
        store(sums[6] * undo, task, 6u * SIDE, writes);
    }
    if (HEAD_DIM > 7u * SIDE) {
        store(sums[7] * undo, task, 7u * SIDE, writes);
    }
    if (HEAD_DIM > 8u * SIDE) {
        store(sums[8] * undo, task, 8u * SIDE, writes);
    }
    if (HEAD_DIM > 9u * SIDE) {
        store(sums[9] * undo, task, 9u * SIDE, writes);
    }
    if (HEAD_DIM > 10u * SIDE) {
        store(sums[10] * undo, task, 10u * SIDE, writes);
    }
    if (HEAD_DIM > 11u * SIDE) {
        store(sums[11] * undo, task, 11u * SIDE, writes);
    }
    if (HEAD_DIM > 12u * SIDE) {
        store(sums[12] * undo, task, 12u * SIDE, writes);
    }
    if (HEAD_DIM > 13u * SIDE) {
        store(sums[13] * undo, task, 13u * SIDE, writes);
    }
    if (HEAD_DIM > 14u * SIDE) {
        store(sums[14] * undo, task, 14u * SIDE, writes);
    }
    if (HEAD_DIM > 15u * SIDE) {
        store(sums[15] * undo, task, 15u * SIDE, writes);
    }
}
