// The 8 x 8 sums that a thread keeps in registers: of the low and high four of one side by the low and high four of the other.
struct Sums {
    low_low: mat4x4<f32>,
    low_high: mat4x4<f32>,
    high_low: mat4x4<f32>,
    high_high: mat4x4<f32>,
}

fn add_outer(sums: ptr<function, Sums>, a_low: vec4<f32>, a_high: vec4<f32>, b_low: vec4<f32>, b_high: vec4<f32>) {
    (*sums).low_low += outer(a_low, b_low);
    (*sums).low_high += outer(a_low, b_high);
    (*sums).high_low += outer(a_high, b_low);
    (*sums).high_high += outer(a_high, b_high);
}

// Whether the products of a tile are made in a loop or step by step. Written out, reads run ahead of them: compilers move what is read ahead
// behind a loop, where it is waited for at once. But some then read all steps' operands at once, for which their GPUs have too few registers.
override LOOPED: bool = false;
