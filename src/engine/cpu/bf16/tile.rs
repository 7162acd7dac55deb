//! The innermost loops: products of one tile, and of registers alone to find out what a core does at best.

use crate::engine::cpu::vectors::vectorised;

/// Tokens of a tile.
pub const ROWS: usize = 8;
/// Outputs of a tile: three vectors of AVX-512, so that the sums fill 24 of its 32 registers.
pub const COLUMNS: usize = 48;

/// The sums of a tile.
pub type Sums = [[f32; COLUMNS]; ROWS];

/// `sums += x w` over pairs of inputs: both numbers of a pair in one word, the first in the lower half.
pub type Kernel = fn(sums: &mut Sums, x: &[[u32; ROWS]], w: &[[u32; COLUMNS]]);

/// Whether this processor multiplies pairs of bf16 numbers in its vectors.
#[must_use]
pub fn has_dot_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The kernel for this processor.
pub fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    if has_dot_products() {
        // SAFETY: the processor has the instructions.
        return |sums, x, w| unsafe { avx512::add_products(sums, x, w) };
    }
    // A multiply-add that is no instruction is a slow call.
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("fma") {
        return portable::<false>;
    }
    portable::<true>
}

/// In f32, of which every bf16 number is one.
fn portable<const FUSED: bool>(sums: &mut Sums, x: &[[u32; ROWS]], w: &[[u32; COLUMNS]]) {
    /// Sums that fit the registers of any processor with vectors of 32 bytes.
    const PART: [usize; 2] = [4, 16];
    let add_product = |sum: f32, a: f32, b: f32| if FUSED { a.mul_add(b, sum) } else { sum + a * b };
    let first = |pair: u32| f32::from_bits(pair << 16);
    let second = |pair: u32| f32::from_bits(pair & 0xffff_0000);
    vectorised(
        #[inline(always)]
        || {
            for row in (0..ROWS).step_by(PART[0]) {
                for column in (0..COLUMNS).step_by(PART[1]) {
                    let mut part = [[0.0f32; PART[1]]; PART[0]];
                    for (x, w) in x.iter().zip(w) {
                        for i in 0..PART[0] {
                            let pair = x[row + i];
                            for j in 0..PART[1] {
                                let weight = w[column + j];
                                part[i][j] = add_product(part[i][j], first(pair), first(weight));
                                part[i][j] = add_product(part[i][j], second(pair), second(weight));
                            }
                        }
                    }
                    for (sums, part) in sums[row..].iter_mut().zip(&part) {
                        sums[column..].iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
            }
        },
    );
}

/// Runs `rounds` rounds of dot products in registers on this thread and returns the number of multiply-adds done: none where the
/// processor has no such instruction.
#[must_use]
pub fn dot_products(rounds: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if has_dot_products() {
        // SAFETY: the processor has the instructions.
        return unsafe { avx512::in_registers(rounds) };
    }
    let _ = rounds;
    0
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLUMNS, ROWS, Sums};
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// Numbers of a vector of sums.
    const LANES: usize = 16;
    const VECTORS: usize = COLUMNS / LANES;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(words: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute(words) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn add_products(sums: &mut Sums, x: &[[u32; ROWS]], w: &[[u32; COLUMNS]]) {
        let mut registers = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for (registers, sums) in registers.iter_mut().zip(&*sums) {
            for (register, sums) in registers.iter_mut().zip(sums.as_chunks::<LANES>().0) {
                // SAFETY: a chunk has the vector's 16 numbers.
                *register = unsafe { _mm512_loadu_ps(sums.as_ptr()) };
            }
        }
        for (x, w) in x.iter().zip(w) {
            let mut weights = [pairs(_mm512_set1_epi32(0)); VECTORS];
            for (weights, w) in weights.iter_mut().zip(w.as_chunks::<LANES>().0) {
                // SAFETY: a chunk has the vector's 16 pairs.
                *weights = pairs(unsafe { _mm512_loadu_si512(w.as_ptr().cast()) });
            }
            for (registers, &x) in registers.iter_mut().zip(x) {
                let x = pairs(_mm512_set1_epi32(x.cast_signed()));
                for (register, &weights) in registers.iter_mut().zip(&weights) {
                    *register = _mm512_dpbf16_ps(*register, x, weights);
                }
            }
        }
        for (registers, sums) in registers.iter().zip(sums) {
            for (&register, sums) in registers.iter().zip(sums.as_chunks_mut::<LANES>().0) {
                // SAFETY: a chunk has room for the vector's 16 numbers.
                unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), register) };
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn in_registers(rounds: u64) -> u64 {
        const CHAINS: usize = 12;
        let factor = pairs(_mm512_set1_epi32(0x3f00_3f00));
        let mut sums: [__m512; CHAINS] = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
        }
        std::hint::black_box(sums);
        rounds * (CHAINS * 2 * LANES) as u64
    }
}
