//! Dot products of AVX-512 BF16. Sums of 8 tokens by 32 outputs take half of the registers: each of the 16 is added to once in the six
//! cycles or more that a product takes.

use super::{Ahead, Pair, Parts, SIDE, STEP, Sums, Tile};
use crate::tensor::Dtype;
use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_extracti64x4_epi64, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_permutex2var_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
    _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
};

/// Tokens whose sums are in registers.
const TOKENS: usize = 8;

/// Whether this processor has what these functions need.
pub fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f")
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// See [`super::Unit::add_products`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn add_products(parts: Parts, sums: &mut [Sums], x: &[Pair], w: &[Pair], _: Ahead<'_>) {
    for (sums, x) in sums.iter_mut().zip(x.chunks_exact(w.len() / parts.weight * parts.activation)) {
        for (tile_row, [left, right]) in sums.0.iter_mut().enumerate() {
            let halves = left.as_chunks_mut::<TOKENS>().0.iter_mut().zip(right.as_chunks_mut::<TOKENS>().0);
            for (index, (left, right)) in halves.enumerate() {
                let mut registers = [[_mm512_setzero_ps(); 2]; TOKENS];
                for (registers, sums) in registers.iter_mut().zip(left.iter().zip(&*right)) {
                    *registers = [load(sums.0), load(sums.1)];
                }
                for (x, w) in x.chunks_exact(parts.activation).zip(w.chunks_exact(parts.weight)) {
                    for (place, w) in w.iter().enumerate() {
                        for x in &x[..parts.activation - place] {
                            add_tile(&mut registers, &x.0[tile_row].as_chunks::<TOKENS>().0[index], &w.0);
                        }
                    }
                }
                for (registers, sums) in registers.iter().zip(left.iter_mut().zip(right)) {
                    store(registers[0], sums.0);
                    store(registers[1], sums.1);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_tile(sums: &mut [[__m512; 2]; TOKENS], x: &[[u32; SIDE]; TOKENS], w: &[Tile; 2]) {
    for k in 0..SIDE {
        let w = [pairs(words(w[0][k])), pairs(words(w[1][k]))];
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = pairs(_mm512_set1_epi32(x[k].cast_signed()));
            *sums = [_mm512_dpbf16_ps(sums[0], x, w[0]), _mm512_dpbf16_ps(sums[1], x, w[1])];
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &[f32; SIDE]) -> __m512 {
    // SAFETY: a row has the vector's 16 numbers.
    unsafe { _mm512_loadu_ps(row.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(vector: __m512, row: &mut [f32; SIDE]) {
    // SAFETY: a row has room for the vector's 16 numbers.
    unsafe { _mm512_storeu_ps(row.as_mut_ptr(), vector) };
}

/// See [`super::Unit::split`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn split(dtype: Dtype, bytes: &[u8], parts: usize, row: usize, packed: &mut [Pair]) {
    let step_bytes = STEP * dtype.size();
    for (bytes, parts) in bytes.chunks(step_bytes).zip(packed.chunks_exact_mut(parts)) {
        let mut whole = [0; STEP * size_of::<f32>()];
        let bytes = if bytes.len() == step_bytes {
            bytes
        } else {
            whole[..bytes.len()].copy_from_slice(bytes);
            &whole
        };
        let (first, second) = bytes.split_at(step_bytes / 2);
        let mut left = [widen(dtype, first), widen(dtype, second)];
        for part in parts {
            // SAFETY: both are 64 bytes without invalid values.
            let rounded: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(left[1], left[0])) };
            // SAFETY: a row has room for the vector's 16 words.
            unsafe { _mm512_storeu_si512(part.0[row / SIDE][row % SIDE].as_mut_ptr().cast(), rounded) };
            left[0] = _mm512_sub_ps(left[0], widen_words(_mm512_castsi512_si256(rounded)));
            left[1] = _mm512_sub_ps(left[1], widen_words(_mm512_extracti64x4_epi64::<1>(rounded)));
        }
    }
}

/// 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(dtype: Dtype, bytes: &[u8]) -> __m512 {
    assert!(bytes.len() >= SIDE * dtype.size(), "16 numbers");
    let from = bytes.as_ptr();
    // SAFETY: there are 64 bytes, or 32, as asserted.
    unsafe {
        match dtype {
            Dtype::F32 => _mm512_loadu_ps(from.cast()),
            Dtype::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            Dtype::Bf16 => widen_words(_mm256_loadu_si256(from.cast())),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen_words(words: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
}

/// Swaps rows and columns: blocks of 8 by 8 beside the diagonal change places, and so within each block those of 4, 2 and 1.
#[target_feature(enable = "avx512f")]
pub fn transpose(tile: &mut Tile) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (vector, row) in rows.iter_mut().zip(&*tile) {
        // SAFETY: a row has the vector's 16 words.
        *vector = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
    }
    exchange::<8>(&mut rows);
    exchange::<4>(&mut rows);
    exchange::<2>(&mut rows);
    exchange::<1>(&mut rows);
    for (row, vector) in tile.iter_mut().zip(rows) {
        // SAFETY: a row has room for the vector's 16 words.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), vector) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn exchange<const DISTANCE: usize>(rows: &mut [__m512i; SIDE]) {
    /// Places in two rows side by side: the blocks that both rows have at the beginning, or at the end.
    const fn places(distance: usize, from: usize) -> [u32; SIDE] {
        let mut places = [0; SIDE];
        let mut column = 0;
        while column < SIDE {
            let second = column & distance != 0;
            places[column] = (column - if second { distance } else { 0 } + from + if second { SIDE } else { 0 }) as u32;
            column += 1;
        }
        places
    }
    let (upper, lower) = (words(const { places(DISTANCE, 0) }), words(const { places(DISTANCE, DISTANCE) }));
    for row in 0..SIDE {
        if row & DISTANCE == 0 {
            let (a, b) = (rows[row], rows[row + DISTANCE]);
            rows[row] = _mm512_permutex2var_epi32(a, upper, b);
            rows[row + DISTANCE] = _mm512_permutex2var_epi32(a, lower, b);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn words(words: [u32; SIDE]) -> __m512i {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// Multiply-adds of so many rounds in registers on this thread.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn in_registers(rounds: u64) -> u64 {
    const CHAINS: usize = 12;
    let factor = pairs(_mm512_set1_epi32(0x3f00_3f00));
    let mut sums: [__m512; CHAINS] = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
    }
    std::hint::black_box(sums);
    rounds * (CHAINS * 2 * SIDE) as u64
}
