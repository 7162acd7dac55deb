//! Dot products of AVX-512 BF16. Sums of 8 tokens by 32 outputs take half of the registers: each of the 16 is added to once in the six
//! cycles or more that a product takes.

use super::{Pair, SIDE, Sums, Tile};
use std::arch::x86_64::*;

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

/// See [`super::Kernel`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn add_products<const X: usize, const W: usize>(sums: &mut [Sums], x: &[Pair], w: &[Pair]) {
    for (sums, x) in sums.iter_mut().zip(x.chunks_exact(w.len() / W * X)) {
        for (tile_row, [left, right]) in sums.0.iter_mut().enumerate() {
            let halves = left.as_chunks_mut::<TOKENS>().0.iter_mut().zip(right.as_chunks_mut::<TOKENS>().0);
            for (index, (left, right)) in halves.enumerate() {
                let mut registers = [[_mm512_setzero_ps(); 2]; TOKENS];
                for (registers, sums) in registers.iter_mut().zip(left.iter().zip(&*right)) {
                    *registers = [load(sums.0), load(sums.1)];
                }
                for (x, w) in x.chunks_exact(X).zip(w.chunks_exact(W)) {
                    for (place, w) in w.iter().enumerate() {
                        for x in &x[..X - place] {
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
        // SAFETY: a row has the vector's 16 pairs.
        let w = [0, 1].map(|half| pairs(unsafe { _mm512_loadu_si512(w[half][k].as_ptr().cast()) }));
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

/// Swaps rows and columns: blocks of 8 by 8 beside the diagonal change places, and so within each block those of 4, 2 and 1.
#[target_feature(enable = "avx512f")]
pub fn turn(tile: &mut Tile) {
    // SAFETY: a row has the vector's 16 words.
    let mut rows = tile.each_ref().map(|row| unsafe { _mm512_loadu_si512(row.as_ptr().cast()) });
    for distance in [8, 4, 2, 1] {
        // Places in two rows, of which the second begins at 16.
        let place = |second: usize| move |column: usize| column + if column & distance == 0 { second * distance } else { SIDE - distance + second * distance };
        let [upper, lower] = [place(0), place(1)].map(|place| words(std::array::from_fn(|column| place(column) as u32)));
        for row in (0..SIDE).filter(|row| row & distance == 0) {
            let [a, b] = [rows[row], rows[row + distance]];
            rows[row] = _mm512_permutex2var_epi32(a, upper, b);
            rows[row + distance] = _mm512_permutex2var_epi32(a, lower, b);
        }
    }
    for (row, vector) in tile.iter_mut().zip(rows) {
        // SAFETY: a row has room for the vector's 16 words.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), vector) };
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
