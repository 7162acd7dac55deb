// Takes a panel of logits [tokens, width] into each token's running cross entropy: largest logit, sum of exponentials relative
// to it, and the target's logit. One workgroup a token.
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
struct Params {
    tokens: u32,
    width: u32,
    first_entry: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
// Vocabulary ids as exact f32 integers.
@group(0) @binding(2) var<storage, read> targets: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;

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
    let before = state[token * 3u];
    var largest = before;
    for (var i = thread; i < params.width; i += 256u) {
        largest = max(largest, logits[start + i]);
    }
    largest = workgroup_max(thread, largest);
    var sum = 0.0;
    for (var i = thread; i < params.width; i += 256u) {
        sum += exp(logits[start + i] - largest);
    }
    sum = workgroup_sum(thread, sum);
    if (thread == 0u) {
        state[token * 3u] = largest;
        state[token * 3u + 1u] = state[token * 3u + 1u] * exp(before - largest) + sum;
        let target_entry = u32(targets[token]);
        if (target_entry >= params.first_entry && target_entry < params.first_entry + params.width) {
            state[token * 3u + 2u] = logits[start + target_entry - params.first_entry];
        }
    }
}
