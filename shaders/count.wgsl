// Counts the submissions that were carried out: the last kernel of each. Some systems report those that failed as done.
@group(0) @binding(0) var<storage, read_write> done: array<u32>;

@compute @workgroup_size(1)
fn main() {
    done[0] += 1u;
}
