// Reductions over the 256 threads of a workgroup; every thread receives the result. Two steps of 16 numbers: a tree of halves would
// wait for the slowest thread eight times.
var<workgroup> partial: array<f32, 256>;

fn combine(a: f32, b: f32, largest: bool) -> f32 {
    return select(a + b, max(a, b), largest);
}

// 16 numbers that stand so far apart, the first at `place`.
fn combine_16(place: u32, stride: u32, largest: bool) -> f32 {
    var result = partial[place];
    for (var i = 1u; i < 16u; i++) {
        result = combine(result, partial[place + i * stride], largest);
    }
    return result;
}

fn reduce(thread: u32, value: f32, largest: bool) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    if (thread < 16u) {
        partial[thread] = combine_16(thread, 16u, largest);
    }
    workgroupBarrier();
    if (thread == 0u) {
        partial[0] = combine_16(0u, 1u, largest);
    }
    workgroupBarrier();
    let result = partial[0];
    workgroupBarrier();
    return result;
}

fn workgroup_sum(thread: u32, value: f32) -> f32 {
    return reduce(thread, value, false);
}

fn workgroup_max(thread: u32, value: f32) -> f32 {
    return reduce(thread, value, true);
}
