//! Exponentials, sums and largest of many numbers at once: the loops of softmax, silu, norms and cross entropy, in a form that compilers
//! turn into vector instructions.

use pulp::Arch;

/// Runs a loop with the widest vectors that this processor has. The closure must be `#[inline(always)]`: it is compiled for each kind.
pub fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// `e^x` to within 2 units in the last place, without a branch or a call, so that loops over it become vector instructions. Beyond the
/// range of normal numbers it stays at the range's end; NaN stays NaN.
#[inline(always)]
pub fn exp(number: f32) -> f32 {
    /// ln 2 in two parts, the first with so few digits that its products with exponents are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Adding it rounds to a whole number, which then stands in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let x = number.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let r = x - exponent * LN_2[0] - exponent * LN_2[1];
    // Taylor's series: |r| is at most ln(2) / 2, so the first term left out is below 6e-9.
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    // 2^exponent is added to the exponent's bits.
    let power = f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23));
    if number.is_nan() { number } else { power }
}

/// The sum of what `of` makes of the numbers, in 32 partial sums: running sums side by side round less than one does.
#[inline(always)]
pub fn sum(numbers: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    sum_of_pairs(numbers, numbers, |number, _| of(number))
}

/// The same over the pairs of two rows.
#[inline(always)]
pub fn sum_of_pairs(left: &[f32], right: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<32>(), right.as_chunks::<32>());
    let mut partial = [0.0f32; 32];
    for (left, right) in left.iter().zip(right) {
        // One array after the other: compilers leave sums of single numbers as they are.
        let mut values = [0.0f32; 32];
        values.iter_mut().zip(left.iter().zip(right)).for_each(|(value, (&a, &b))| *value = of(a, b));
        partial.iter_mut().zip(values).for_each(|(partial, value)| *partial += value);
    }
    left_rest.iter().zip(right_rest).zip(&mut partial).for_each(|((&a, &b), partial)| *partial += of(a, b));
    partial.iter().sum()
}

/// The largest of the numbers and `start`; NaN is passed over.
#[inline(always)]
pub fn maximum(numbers: &[f32], start: f32) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<32>();
    let mut partial = [start; 32];
    for chunk in chunks {
        partial.iter_mut().zip(chunk).for_each(|(partial, &number)| *partial = partial.max(number));
    }
    partial.iter().chain(rest).fold(start, |largest, &number| largest.max(number))
}
