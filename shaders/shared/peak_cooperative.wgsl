// Chains of products on matrix units, to find out how many multiply-adds a device does in a second: eight matrices of sums a subgroup,
// `rounds` products each.
struct Params {
    rounds: u32,
}

override THREADS: u32 = 128u; // four subgroups

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> operands: array<Staged, SIDE * SIDE / UNIT>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup_id: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    for (var i = thread; i < SIDE * SIDE / UNIT; i += THREADS) {
        operands[i] = Staged(f16(0.5));
    }
    workgroupBarrier();
    let left = coopLoadT<Left>(&operands[0], SIDE / UNIT);
    let right = coopLoad<Right>(&operands[0], SIDE / UNIT);
    var sums: array<Sum, 8>;
    for (var round = 0u; round < params.rounds; round++) {
//#repeat i 8
        sums[$i] = coopMultiplyAdd(left, right, sums[$i]);
//#end
    }
    // Every result is written, or a compiler would leave the work out.
    // Should a driver make more or fewer subgroups of the threads, they stay within the results, and one of these says so.
    let first = (group.x * 4u + subgroup_id % 4u) * 8u * SIDE * SIDE;
//#repeat i 8
    coopStoreT(sums[$i], &y[first + $iu * SIDE * SIDE], SIDE);
//#end
    storageBarrier();
    if (subgroups != 4u && thread == 0u) {
        y[first] = -1.0;
    }
}
