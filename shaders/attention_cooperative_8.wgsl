// Attention on matrix units of 8 x 8; see shared/attention_cooperative.wgsl. Staging comes behind the constants that tiles are
// sized by: the shader compiler takes them in this order only.
//#include shared/units_8.wgsl
//#include shared/tiles.wgsl
//#include shared/attention_params.wgsl
//#include shared/cooperative.wgsl
//#include shared/attention_cooperative.wgsl
//#include shared/staging_8.wgsl
alias Score = f32;

// The scores of SIDE queries with a tile's keys, the first SIDE of them and the others. They are scaled where they are read: Metal multiplies
// its matrices by matrices only.
fn store_scores(near: Sum, far: Sum, scales: vec2<f32>, place: u32) {
    coopStoreT(near, &scores[place], SCORE_LINE);
    coopStoreT(far, &scores[place + SIDE], SCORE_LINE);
}

fn score_quad(line: u32, key: u32, scales: vec2<f32>) -> vec4<f32> {
    let place = line * SCORE_LINE + key;
    let quad = vec4<f32>(scores[place], scores[place + 1u], scores[place + 2u], scores[place + 3u]);
    return quad * select(scales.x, scales.y, key >= SIDE);
}

fn score_pair(place: u32) -> vec2<f32> {
    return vec2<f32>(scores[place], scores[place + 1u]);
}

fn set_score_pair(place: u32, pair: vec2<f32>) {
    scores[place] = pair.x;
    scores[place + 1u] = pair.y;
}

// Writes SIDE channels of the sums, multiplied by `undo`, number by number. They pass through the memory of scores, which nothing reads any
// more.
fn store(sum: Sum, undo: f32, task: Task, channel: u32, part: Part) {
    let corner = part.subgroup * SIDE * SCORE_LINE;
    coopStoreT(sum, &scores[corner], SCORE_LINE);
    workgroupBarrier();
    for (var n = part.lane; n < SIDE * SIDE; n += SUBGROUP_SIZE) {
        if (part.writes) {
            let query = n / SIDE;
            output[output_place(task, channel) + query * params.heads * HEAD_DIM + n % SIDE] = scores[corner + query * SCORE_LINE + n % SIDE] * undo;
        }
    }
    workgroupBarrier();
}
