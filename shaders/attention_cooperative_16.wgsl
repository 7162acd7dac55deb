// Attention on matrix units of 16 x 16; see shared/attention_cooperative.wgsl. Staging comes behind the constants that tiles are
// sized by: the shader compiler takes them in this order only.
//#include shared/units_16.wgsl
//#include shared/tiles.wgsl
//#include shared/attention_params.wgsl
//#include shared/cooperative.wgsl
//#include shared/attention_cooperative.wgsl
//#include shared/staging_16.wgsl
alias Score = vec4<f32>;

// The scores of SIDE queries with a tile's keys, the first SIDE of them and the others, with their scales.
fn store_scores(near: Sum, far: Sum, scales: vec2<f32>, place: u32) {
    coopStoreT(near * scales.x, &scores[place / UNIT], SCORE_LINE / UNIT);
    coopStoreT(far * scales.y, &scores[(place + SIDE) / UNIT], SCORE_LINE / UNIT);
}

fn score_quad(line: u32, key: u32, scales: vec2<f32>) -> vec4<f32> {
    return scores[(line * SCORE_LINE + key) / UNIT];
}

fn score_pair(place: u32) -> vec2<f32> {
    return scores[place / UNIT].xy;
}

fn set_score_pair(place: u32, pair: vec2<f32>) {
    scores[place / UNIT] = vec4<f32>(pair, 0.0, 0.0);
}

// Writes SIDE channels of the sums, multiplied by `undo`.
fn store(sum: Sum, undo: f32, task: Task, channel: u32, part: Part) {
    let stride = params.heads * HEAD_DIM;
    if (part.writes) {
        coopStoreT(sum * undo, &output[output_place(task, channel)], stride);
    }
}
