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
// At least STEPS of the smallest subgroups, of SIDE threads, and the largest heads, of 16 * SIDE channels.
const MOST_STEPS = 16u;
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

// Where the sums of a subgroup's queries go, from some channel on.
fn output_place(task: Task, channel: u32) -> u32 {
    return ((task.window + task.query) * params.heads + task.head) * HEAD_DIM + channel;
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
//#repeat i 16
    if (STEPS > $iu) {
        (*ahead)[$i] = k[unit_place(task, first_key, thread + $iu * THREADS)];
    }
//#end
}

fn read_values(ahead: ptr<function, Ahead>, task: Task, first_key: u32, thread: u32) {
//#repeat i 16
    if (STEPS > $iu) {
        (*ahead)[$i] = v[unit_place(task, first_key, thread + $iu * THREADS)];
    }
//#end
}

fn stage_ahead(ahead: ptr<function, Ahead>, thread: u32) {
//#repeat i 16
    if (STEPS > $iu) {
        stage_unit(thread + $iu * THREADS, (*ahead)[$i]);
    }
//#end
}

fn stage_unit(n: u32, unit: vec4<u32>) {
    if (n < KEYS * HEAD_DIM / 8u) {
        let at = n / (HEAD_DIM / 8u) * LINE + n % (HEAD_DIM / 8u) * 8u;
        stage_right(at, quad_of(unit.xy));
        stage_right(at + 4u, quad_of(unit.zw));
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

// Leaves the scores of a subgroup's queries with the staged keys in workgroup memory, to be read as quads.
fn score(task: Task, queries: ptr<function, Queries>, subgroup: u32, scales: vec2<f32>) {
    var near = Sum();
    var far = Sum();
//#repeat i 8
    if (HEAD_DIM > $iu * SIDE) {
        near = meet((*queries)[$i], $iu * SIDE, 0u, near);
        far = meet((*queries)[$i], $iu * SIDE, SIDE, far);
    }
//#end
    for (var channel = HELD * SIDE; channel < HEAD_DIM; channel += SIDE) {
        let more = queries_from(task, channel);
        near = meet(more, channel, 0u, near);
        far = meet(more, channel, SIDE, far);
    }
    store_scores(near, far, scales, subgroup * SIDE * SCORE_LINE);
}

// What scores are to be multiplied by: those of the first SIDE keys of a tile, and of the others.
fn score_scales(task: Task, first_key: u32) -> vec2<f32> {
    let of_keys = vec2<f32>(k_scales[key_row(task, first_key) / 16u], k_scales[key_row(task, first_key + SIDE) / 16u]);
    return q_scales[(task.window + task.query) / 16u] * params.scale * of_keys;
}

// The scores of a query with four keys of a tile, far below all others where it does not see them.
fn visible_scores(query: u32, line: u32, first_key: u32, key: u32, scales: vec2<f32>) -> vec4<f32> {
    // For a key that comes after its query the difference wraps, and is beyond any reach.
    let distance = query - (first_key + key + vec4<u32>(0u, 1u, 2u, 3u));
    return select(vec4<f32>(LOWEST), score_quad(line, key, scales), distance < vec4<u32>(params.reach));
}

// Adds the staged values, of SIDE channels, as their probabilities weigh them.
fn weigh(sum: Sum, near: Left, far: Left, channel: u32) -> Sum {
    let stride = LINE / UNIT;
    let near_values = coopLoadT<Right>(&right_tile[channel / UNIT], stride);
    let far_values = coopLoadT<Right>(&right_tile[(SIDE * LINE + channel) / UNIT], stride);
    return coopMultiplyAdd(far, far_values, coopMultiplyAdd(near, near_values, sum));
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
//#repeat i 8
    if (HEAD_DIM > $iu * SIDE) {
        queries[$i] = queries_from(task, $iu * SIDE);
    }
//#end
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
        let scales = score_scales(task, first_key);
        score(task, &queries, subgroup, scales);
        workgroupBarrier();
        let before = largest;
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            let quad = visible_scores(query, line, first_key, key, scales);
            largest = max(largest, max(max(quad.x, quad.y), max(quad.z, quad.w)));
        }
        // While a query has seen no visible key, everything it gathered is scaled away by the first one it sees.
        total *= exp(before - largest);
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            total += dot(exp(visible_scores(query, line, first_key, key, scales) - largest), vec4<f32>(1.0));
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
        let scales = score_scales(task, first_key);
        score(task, &queries, subgroup, scales);
        workgroupBarrier();
        stage_ahead(&ahead, thread);
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            let factor = enlarged * (v_scales[key_row(task, first_key + key / SIDE * SIDE) / 16u] / scale);
            let quad = exp(visible_scores(query, line, first_key, key, scales) - largest) * factor;
            stage_left(line * PROBABILITY_LINE + key, vec4<f16>(quad));
        }
        workgroupBarrier();
        read_keys(&ahead, task, first_key + KEYS, thread);
        let at = subgroup * SIDE * PROBABILITY_LINE / UNIT;
        let near = coopLoadT<Left>(&left_tile[at], PROBABILITY_LINE / UNIT);
        let far = coopLoadT<Left>(&left_tile[at + SIDE / UNIT], PROBABILITY_LINE / UNIT);
//#repeat i 16
        if (HEAD_DIM > $iu * SIDE) {
            sums[$i] = weigh(sums[$i], near, far, $iu * SIDE);
        }
//#end
        workgroupBarrier();
    }
    let part_of_output = Part(subgroup, lane, subgroups == SUBGROUPS && first_query < params.window_tokens);
    let undo = scale / ENLARGED;
//#repeat i 16
    if (HEAD_DIM > $iu * SIDE) {
        store(sums[$i], undo, task, $iu * SIDE, part_of_output);
    }
//#end
}
