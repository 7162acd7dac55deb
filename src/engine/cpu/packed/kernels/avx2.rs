//! AVX2 with FMA: multiply-adds of f32. Sums of 4 tokens by 16 outputs take half of the registers.

use super::{Row, SIDE, Step, Sums, Tile};
use std::arch::x86_64::{__m256, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};

/// Tokens whose sums are in registers.
pub const TOKENS: usize = 4;

/// Whether this processor has what these functions need.
pub fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// See [`super::Unit::add_products`]. Numbers of f32 have no parts.
#[target_feature(enable = "avx2,fma")]
pub fn add_products(sums: &mut [Sums], x: &[Step], w: &[Step]) {
    for (sums, x) in sums.iter_mut().zip(x.chunks_exact(w.len())) {
        let quartets: &[[Row; TOKENS]] = bytemuck::cast_slice(x);
        for (quartet, x) in quartets.chunks_exact(w.len()).enumerate() {
            let [token, row] = [quartet * TOKENS / SIDE, quartet * TOKENS % SIDE];
            for (column, sums) in sums.0[token].iter_mut().enumerate() {
                let sums = &mut sums[row..row + TOKENS];
                let mut registers = [[_mm256_setzero_ps(); 2]; TOKENS];
                for (registers, sums) in registers.iter_mut().zip(&*sums) {
                    *registers = load(sums);
                }
                for (x, w) in x.iter().zip(w) {
                    add_tile(&mut registers, x, &w.0.as_chunks().0[column]);
                }
                for (registers, sums) in registers.iter().zip(sums) {
                    store(*registers, sums);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_tile(sums: &mut [[__m256; 2]; TOKENS], x: &[Row; TOKENS], w: &Tile) {
    // Four inputs a round: a loop's own instructions were seen to cost 3 %.
    for (k, w) in w.as_chunks::<4>().0.iter().enumerate() {
        for (place, w) in w.iter().enumerate() {
            let w = load(bytemuck::cast_ref(w));
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = _mm256_broadcast_ss(bytemuck::cast_ref(&x[k * 4 + place]));
                *sums = [_mm256_fmadd_ps(x, w[0], sums[0]), _mm256_fmadd_ps(x, w[1], sums[1])];
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(row: &[f32; SIDE]) -> [__m256; 2] {
    // SAFETY: a row has the two vectors' 16 numbers.
    unsafe { [_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))] }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(vectors: [__m256; 2], row: &mut [f32; SIDE]) {
    // SAFETY: a row has room for the two vectors' 16 numbers.
    unsafe {
        _mm256_storeu_ps(row.as_mut_ptr(), vectors[0]);
        _mm256_storeu_ps(row.as_mut_ptr().add(8), vectors[1]);
    }
}
