// Rotary embedding in place on half-split pairs. x is [tokens, heads * head_dim]; the table is [positions, head_dim]:
// first the cosines, then the sines, of each pair's angle.
//#include shared/workgroup.wgsl
struct Params {
    pairs: u32,
    pairs_per_token: u32,
    half: u32,
    window_tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pair = linear_workgroup(group, groups) * 256u + thread;
    if (pair >= params.pairs) {
        return;
    }
    let position = pair / params.pairs_per_token % params.window_tokens;
    let head = pair / params.half;
    let i = pair % params.half;
    let cosine = table[position * 2u * params.half + i];
    let sine = table[position * 2u * params.half + params.half + i];
    let first = head * 2u * params.half + i;
    let second = first + params.half;
    let a = x[first];
    let b = x[second];
    x[first] = a * cosine - b * sine;
    x[second] = b * cosine + a * sine;
}
