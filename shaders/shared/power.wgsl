// The powers of two by which numbers are scaled into f16's range, and back, from the exponent's bits of the largest of them.
// 127 stands for 2^0.
const TARGET = 141u; // 2^14

// NaN or infinity may get any scale, and stay; numbers next to nothing must not leave f32 themselves.
fn scale_exponent(largest: f32) -> u32 {
    return clamp(bitcast<u32>(largest) >> 23u, TARGET - 126u, 254u);
}

fn scale_to_f16(exponent: u32) -> f32 {
    return bitcast<f32>((TARGET + 127u - exponent) << 23u);
}

fn scale_from_f16(exponent: u32) -> f32 {
    return bitcast<f32>((exponent + 127u - TARGET) << 23u);
}
