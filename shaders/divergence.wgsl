// Adds to each token's sum what a panel of the vocabulary, logits [tokens, width] of two predictions p and q, has of their
// Kullback-Leibler divergence: p (log p - log q) over the panel's entries. One workgroup a token.
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
struct Params {
    tokens: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p_logits: array<f32>;
@group(0) @binding(2) var<storage, read> q_logits: array<f32>;
// States of the cross entropies over the whole vocabulary: largest logit, sum of exponentials relative to it, target logit.
@group(0) @binding(3) var<storage, read> p_state: array<f32>;
@group(0) @binding(4) var<storage, read> q_state: array<f32>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = linear_workgroup(group, groups);
    if (token >= params.tokens) {
        return;
    }
    let start = token * params.width;
    let p_normaliser = p_state[token * 3u] + log(p_state[token * 3u + 1u]);
    let q_normaliser = q_state[token * 3u] + log(q_state[token * 3u + 1u]);
    var sum = 0.0;
    for (var i = thread; i < params.width; i += 256u) {
        let log_p = p_logits[start + i] - p_normaliser;
        let log_q = q_logits[start + i] - q_normaliser;
        sum += exp(log_p) * (log_p - log_q);
    }
    sum = workgroup_sum(thread, sum);
    if (thread == 0u) {
        sums[token] += sum;
    }
}
