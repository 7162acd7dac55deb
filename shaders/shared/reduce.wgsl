// Reductions over the 256 threads of a workgroup; every thread receives the result. Two steps of 16 numbers: a tree of halves would
// wait for the slowest thread eight times.
var<workgroup> partial: array<f32, 256>;

// The sum of 16 numbers that stand so far apart, the first at `place`.
fn sum_of_16(place: u32, stride: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < 16u; i++) {
        sum += partial[place + i * stride];
    }
    return sum;
}

fn max_of_16(place: u32, stride: u32) -> f32 {
    var largest = partial[place];
    for (var i = 1u; i < 16u; i++) {
        largest = max(largest, partial[place + i * stride]);
    }
    return largest;
}

fn workgroup_sum(thread: u32, value: f32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    if (thread < 16u) {
        partial[thread] = sum_of_16(thread, 16u);
    }
    workgroupBarrier();
    if (thread == 0u) {
        partial[0] = sum_of_16(0u, 1u);
    }
    workgroupBarrier();
    let total = partial[0];
    workgroupBarrier();
    return total;
}

fn workgroup_max(thread: u32, value: f32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    if (thread < 16u) {
        partial[thread] = max_of_16(thread, 16u);
    }
    workgroupBarrier();
    if (thread == 0u) {
        partial[0] = max_of_16(0u, 1u);
    }
    workgroupBarrier();
    let largest = partial[0];
    workgroupBarrier();
    return largest;
}
