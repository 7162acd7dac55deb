// What kernels on matrix units have in common whose workgroups are four subgroups and whose operands lie in tiles.
override SUBGROUP_SIZE: u32 = 32u;
override THREADS: u32 = 128u; // SUBGROUPS * SUBGROUP_SIZE
const SUBGROUPS = 4u;

// A thread's part in a matrix of sums: its subgroup, which thread of it it is, and whether sums are written.
struct Part {
    subgroup: u32,
    lane: u32,
    writes: bool,
}

// Four numbers in f16 from two words. Read as words, eight at a time are one access to memory.
fn quad_of(words: vec2<u32>) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)));
}
