// Causal grouped-query attention on matrix units: f16 operands, f32 scores, softmax and sums. For windows of a multiple of 16 tokens, and
// heads of a multiple of SIDE channels.
//
// A subgroup takes SIDE queries of a head. It goes over the keys twice: first for the largest score of each query and the sum of
// exponentials; then scores are computed again, and values summed as the probabilities weigh them, so that no sum is ever scaled, which
// matrices of sums cannot be, row by row. Scores and probabilities pass through workgroup memory, operands come from the tiles that
// products of activations read. If the subgroups are not of the size that the constants say, nothing is written.
override SUBGROUP_SIZE: u32 = 32u;
override THREADS: u32 = 128u; // SUBGROUPS * SUBGROUP_SIZE

@group(0) @binding(1) var<storage, read> q: array<Staged>;
@group(0) @binding(2) var<storage, read> k: array<Staged>;
@group(0) @binding(3) var<storage, read> v: array<Staged>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
// 16 tokens times their number are what they were.
@group(0) @binding(5) var<storage, read> q_scales: array<f32>;
@group(0) @binding(6) var<storage, read> k_scales: array<f32>;
@group(0) @binding(7) var<storage, read> v_scales: array<f32>;

const SUBGROUPS = 4u;
// Keys of a tile, and between two lines of scores, and of probabilities: a few more, against bank conflicts.
const KEYS = 2u * SIDE;
const SCORE_LINE = KEYS + 4u;
const PROBABILITY_LINE = KEYS + 8u;
// Threads that share a query, at most: each has four keys of a tile.
const MOST_PARTS = KEYS / 4u;
// Probabilities are multiplied by it on their way through f16, which has fewer digits for small numbers.
const ENLARGED = 16384.0; // 2^14

var<workgroup> scores: array<Score, SUBGROUPS * SIDE * SCORE_LINE / UNIT>;
var<workgroup> probabilities: array<Staged, SUBGROUPS * SIDE * PROBABILITY_LINE / UNIT>;
// Largest score and sum of exponentials, of each part of each query.
var<workgroup> partial: array<vec2<f32>, SUBGROUPS * SIDE * MOST_PARTS>;

// What a subgroup works on: rows of activations, and columns of queries and of keys and values.
struct Task {
    window: u32,
    query: u32,
    head: u32,
    kv_head: u32,
}

// A head's channels of SIDE rows in tiles.
struct Block {
    // The first channel of the head among those of a row.
    first: u32,
    // Where its tile begins at these rows.
    start: u32,
}

fn block(row: u32, head: u32, heads: u32) -> Block {
    let first = head * HEAD_DIM;
    let tile = row / TILE * ((heads * HEAD_DIM + DEPTH - 1u) / DEPTH) + first / DEPTH;
    return Block(first, (tile * TILE + row % TILE) * DEPTH);
}

// Where SIDE channels of a block begin; at a constant distance where heads are whole tiles.
fn place(block: Block, channel: u32) -> u32 {
    let from_tile = select(block.first % DEPTH, 0u, HEAD_DIM % DEPTH == 0u) + channel;
    return (block.start + from_tile / DEPTH * (TILE * DEPTH) + from_tile % DEPTH) / UNIT;
}

// The row where SIDE keys begin; beyond the window its last ones stand in, unseen.
fn key_row(task: Task, key: u32) -> u32 {
    return task.window + min(key, params.window_tokens - SIDE);
}

fn key_block(task: Task, key: u32) -> Block {
    return block(key_row(task, key), task.kv_head, params.key_value_heads);
}

// Leaves the scores of a subgroup's queries with the keys of a tile in workgroup memory.
fn score(task: Task, subgroup: u32, first_key: u32) {
    let query_block = block(task.window + task.query, task.head, params.heads);
    let near_block = key_block(task, first_key);
    let far_block = key_block(task, first_key + SIDE);
    var near: Sum;
    var far: Sum;
    for (var channel = 0u; channel < HEAD_DIM; channel += SIDE) {
        let queries_at = place(query_block, channel);
        let near_at = place(near_block, channel);
        let far_at = place(far_block, channel);
        let queries = coopLoadT<Left>(&q[queries_at], DEPTH / UNIT);
        let near_keys = coopLoad<Right>(&k[near_at], DEPTH / UNIT);
        let far_keys = coopLoad<Right>(&k[far_at], DEPTH / UNIT);
        near = coopMultiplyAdd(queries, near_keys, near);
        far = coopMultiplyAdd(queries, far_keys, far);
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

// Adds the values of a tile's keys, of SIDE channels, as their probabilities weigh them.
fn weigh(sum: Sum, near: Left, far: Left, near_block: Block, far_block: Block, channel: u32) -> Sum {
    let near_at = place(near_block, channel);
    let far_at = place(far_block, channel);
    let near_values = coopLoadT<Right>(&v[near_at], DEPTH / UNIT);
    let far_values = coopLoadT<Right>(&v[far_at], DEPTH / UNIT);
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

    var largest = LOWEST;
    var total = 0.0;
    // Of the values that are seen: their probabilities make up for the differences.
    var scale = 0.0;
    for (var first_key = begin; first_key < end; first_key += KEYS) {
        score(task, subgroup, first_key);
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
        workgroupBarrier();
    }
    partial[line * MOST_PARTS + part] = vec2<f32>(largest, total);
    workgroupBarrier();
    for (var i = 0u; i < parts; i++) {
        largest = max(largest, partial[line * MOST_PARTS + i].x);
    }
    total = 0.0;
    for (var i = 0u; i < parts; i++) {
        let other = partial[line * MOST_PARTS + i];
        total += other.y * exp(other.x - largest);
    }

    // Indexed by constants only, so that every driver keeps them in registers.
    var sums: array<Sum, 16>;
    let enlarged = ENLARGED / total;
    for (var first_key = begin; first_key < end; first_key += KEYS) {
        score(task, subgroup, first_key);
        workgroupBarrier();
        for (var key = first_of_part; key < end_of_part; key += 4u) {
            let factor = enlarged * (v_scales[key_row(task, first_key + key / SIDE * SIDE) / 16u] / scale);
            let quad = exp(visible_scores(query, first_key + key, line * SCORE_LINE + key) - largest) * factor;
            stage_probabilities(line * PROBABILITY_LINE + key, vec4<f16>(quad));
        }
        workgroupBarrier();
        let near_block = key_block(task, first_key);
        let far_block = key_block(task, first_key + SIDE);
        let at = subgroup * SIDE * PROBABILITY_LINE / UNIT;
        let near = coopLoadT<Left>(&probabilities[at], PROBABILITY_LINE / UNIT);
        let far = coopLoadT<Left>(&probabilities[at + SIDE / UNIT], PROBABILITY_LINE / UNIT);
        sums[0] = weigh(sums[0], near, far, near_block, far_block, 0u);
        if (HEAD_DIM > SIDE) {
            sums[1] = weigh(sums[1], near, far, near_block, far_block, SIDE);
        }
        if (HEAD_DIM > 2u * SIDE) {
            sums[2] = weigh(sums[2], near, far, near_block, far_block, 2u * SIDE);
        }
        if (HEAD_DIM > 3u * SIDE) {
            sums[3] = weigh(sums[3], near, far, near_block, far_block, 3u * SIDE);
        }
        if (HEAD_DIM > 4u * SIDE) {
            sums[4] = weigh(sums[4], near, far, near_block, far_block, 4u * SIDE);
        }
        if (HEAD_DIM > 5u * SIDE) {
            sums[5] = weigh(sums[5], near, far, near_block, far_block, 5u * SIDE);
        }
        if (HEAD_DIM > 6u * SIDE) {
            sums[6] = weigh(sums[6], near, far, near_block, far_block, 6u * SIDE);
        }
        if (HEAD_DIM > 7u * SIDE) {
            sums[7] = weigh(sums[7], near, far, near_block, far_block, 7u * SIDE);
        }
        if (HEAD_DIM > 8u * SIDE) {
            sums[8] = weigh(sums[8], near, far, near_block, far_block, 8u * SIDE);
        }
        if (HEAD_DIM > 9u * SIDE) {
            sums[9] = weigh(sums[9], near, far, near_block, far_block, 9u * SIDE);
        }
        if (HEAD_DIM > 10u * SIDE) {
            sums[10] = weigh(sums[10], near, far, near_block, far_block, 10u * SIDE);
        }
        if (HEAD_DIM > 11u * SIDE) {
            sums[11] = weigh(sums[11], near, far, near_block, far_block, 11u * SIDE);
        }
        if (HEAD_DIM > 12u * SIDE) {
            sums[12] = weigh(sums[12], near, far, near_block, far_block, 12u * SIDE);
        }
        if (HEAD_DIM > 13u * SIDE) {
            sums[13] = weigh(sums[13], near, far, near_block, far_block, 13u * SIDE);
        }
        if (HEAD_DIM > 14u * SIDE) {
            sums[14] = weigh(sums[14], near, far, near_block, far_block, 14u * SIDE);
        }
        if (HEAD_DIM > 15u * SIDE) {
            sums[15] = weigh(sums[15], near, far, near_block, far_block, 15u * SIDE);
        }
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
