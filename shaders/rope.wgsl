// Rotary embedding in place on half-split pairs. x is [tokens, heads * head_dim]; the table is [positions, head_dim]:
// first the cosines, then the sines, of each pair's angle. A thread turns the pairs of four tokens, so that memory is waited for a quarter
// as often, and finds its head once for all of them.
struct Params {
    tokens: u32,
    pairs_per_token: u32,
    half: u32,
    window_tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pair = group.x * 64u + thread;
    let tokens = (group.y + group.z * groups.y) * 4u + vec4<u32>(0u, 1u, 2u, 3u);
    if (pair >= params.pairs_per_token || tokens.x >= params.tokens) {
        return;
    }
    // Behind the last token it is read again, and not written.
    let known = min(tokens, vec4<u32>(params.tokens - 1u));
    let i = pair % params.half;
    let angle = known % params.window_tokens * 2u * params.half + i;
    let cosine = vec4<f32>(table[angle.x], table[angle.y], table[angle.z], table[angle.w]);
    let opposite = angle + params.half;
    let sine = vec4<f32>(table[opposite.x], table[opposite.y], table[opposite.z], table[opposite.w]);
    let first = (known * params.pairs_per_token + pair - i) * 2u + i;
    let second = first + params.half;
    let a = vec4<f32>(x[first.x], x[first.y], x[first.z], x[first.w]);
    let b = vec4<f32>(x[second.x], x[second.y], x[second.z], x[second.w]);
    let turned_a = a * cosine - b * sine;
    let turned_b = b * cosine + a * sine;
    x[first.x] = turned_a.x;
    x[second.x] = turned_b.x;
    if (tokens.y < params.tokens) {
        x[first.y] = turned_a.y;
        x[second.y] = turned_b.y;
    }
    if (tokens.z < params.tokens) {
        x[first.z] = turned_a.z;
        x[second.z] = turned_b.z;
    }
    if (tokens.w < params.tokens) {
        x[first.w] = turned_a.w;
        x[second.w] = turned_b.w;
    }
}
