// sum[1, width] += a[tokens, one column of a]^T b[tokens, first width columns of b]: as cross.wgsl, where that would fill a tile with one row.
//
// A workgroup adds 16 columns of b; its 256 threads take every sixteenth token of a column each, four at a time in sums of their own, so
// that reads do not wait for each other.
//#include shared/workgroup.wgsl
//#include shared/reduce.wgsl
struct Params {
    tokens: u32,
    a_columns: u32,
    a_column: u32,
    b_columns: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> sum: array<f32>;

fn product_at(token: u32, column: u32) -> f32 {
    return a[token * params.a_columns + params.a_column] * b[token * params.b_columns + column];
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = linear_workgroup(group, groups) * 16u;
    // Beyond the edge it is the last column again, whose sum is not written.
    let column = min(first + thread % 16u, params.width - 1u);
    var token = thread / 16u;
    var sums = vec4<f32>();
    for (; token + 48u < params.tokens; token += 64u) {
        sums += vec4<f32>(
            product_at(token, column),
            product_at(token + 16u, column),
            product_at(token + 32u, column),
            product_at(token + 48u, column),
        );
    }
    for (; token < params.tokens; token += 16u) {
        sums.x += product_at(token, column);
    }
    partial[thread] = (sums.x + sums.y) + (sums.z + sums.w);
    workgroupBarrier();
    if (thread < 16u && first + thread < params.width) {
        sum[first + thread] += combine_16(thread, 16u, false);
    }
}
