//! AVX-512: multiply-adds of f32, and dot products of bf16 numbers (AVX-512 BF16). Sums of 8 tokens by 32 outputs take half of the
//! registers: each of the 16 is added to once in the six cycles or more that a product takes.
//!
//! Rows of 8 tokens lie one after the other for all steps, and so do the 32 outputs of an input: with other tokens, or a tile of outputs,
//! between them they would share few sets of the first cache (10 % slower on a Zen 4).

use super::{Parts, Row, SIDE, Step, Sums, Tile};
use crate::tensor::Dtype;
use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_permutex2var_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
};

/// Tokens whose sums are in registers.
pub const TOKENS: usize = 8;
/// Their sums with 32 outputs.
type Registers = [[__m512; 2]; TOKENS];

/// Whether this processor has what these functions need, those of bf16 numbers excepted.
pub fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// Whether it has those of bf16 numbers too.
pub fn has_bf16() -> bool {
    is_available() && std::arch::is_x86_feature_detected!("avx512bf16")
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(words: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// Both formats take the same way through the operands.
macro_rules! kernel {
    ($name:ident, $add_step:ident, $features:literal, $add_product:expr) => {
        /// See [`super::Unit::add_products`].
        #[target_feature(enable = $features)]
        pub fn $name(parts: Parts, sums: &mut [Sums], x: &[Step], w: &[Step]) {
            let length = w.len() / parts.weight * parts.activation;
            for (sums, x) in sums.iter_mut().zip(x.chunks_exact(length)) {
                let octets: &[[Row; TOKENS]] = bytemuck::cast_slice(x);
                for (octet, x) in octets.chunks_exact(length).enumerate() {
                    let mut registers = load(sums, octet * TOKENS);
                    for (x, w) in x.chunks_exact(parts.activation).zip(w.chunks_exact(parts.weight)) {
                        for (place, w) in w.iter().enumerate() {
                            for x in &x[..parts.activation - place] {
                                $add_step(&mut registers, x, w);
                            }
                        }
                    }
                    store(&registers, sums, octet * TOKENS);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn $add_step(sums: &mut Registers, x: &[Row; TOKENS], w: &Step) {
            for (k, [left, right]) in w.0.as_chunks().0.iter().enumerate() {
                let (left, right) = (_mm512_castsi512_ps(words(*left)), _mm512_castsi512_ps(words(*right)));
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = _mm512_set1_ps(f32::from_bits(x[k]));
                    *sums = [$add_product(sums[0], x, left), $add_product(sums[1], x, right)];
                }
            }
        }
    };
}

kernel!(add_products, add_step, "avx512f", |sum, x, w| _mm512_fmadd_ps(x, w, sum));
kernel!(add_bf16_products, add_bf16_step, "avx512f,avx512bf16", |sum, x, w| _mm512_dpbf16_ps(sum, pairs(x), pairs(w)));

/// Sums of so many tokens from `first` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(sums: &Sums, first: usize) -> Registers {
    let [left, right] = &sums.0[first / SIDE];
    let mut registers = [[_mm512_setzero_ps(); 2]; TOKENS];
    for (registers, (left, right)) in registers.iter_mut().zip(left.iter().zip(right).skip(first % SIDE)) {
        // SAFETY: a row has the vector's 16 numbers.
        *registers = unsafe { [_mm512_loadu_ps(left.as_ptr()), _mm512_loadu_ps(right.as_ptr())] };
    }
    registers
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(registers: &Registers, sums: &mut Sums, first: usize) {
    let [left, right] = &mut sums.0[first / SIDE];
    for (registers, (left, right)) in registers.iter().zip(left.iter_mut().zip(right).skip(first % SIDE)) {
        // SAFETY: a row has room for the vector's 16 numbers.
        unsafe {
            _mm512_storeu_ps(left.as_mut_ptr(), registers[0]);
            _mm512_storeu_ps(right.as_mut_ptr(), registers[1]);
        }
    }
}

/// See [`super::Unit::split`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn split<'a>(dtype: Dtype, bytes: &[u8], parts: usize, mut rows: impl Iterator<Item = &'a mut Row>) {
    for_each_piece(dtype, bytes, 2 * SIDE, |bytes| {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut left = [widen(dtype, first), widen(dtype, second)];
        for row in rows.by_ref().take(parts) {
            // SAFETY: both are 64 bytes without invalid values.
            let rounded: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(left[1], left[0])) };
            store_words(rounded, row);
            left[0] = _mm512_sub_ps(left[0], widen_words(_mm512_castsi512_si256(rounded)));
            left[1] = _mm512_sub_ps(left[1], widen_words(_mm512_extracti64x4_epi64::<1>(rounded)));
        }
    });
}

/// See [`super::Unit::split`].
#[target_feature(enable = "avx512f")]
pub fn whole<'a>(dtype: Dtype, bytes: &[u8], mut rows: impl Iterator<Item = &'a mut Row>) {
    for_each_piece(dtype, bytes, SIDE, |bytes| {
        let row = rows.next().expect("a row for every 16 inputs");
        // SAFETY: a row has room for the vector's 16 numbers.
        unsafe { _mm512_storeu_ps(row.as_mut_ptr().cast(), widen(dtype, bytes)) };
    });
}

/// Calls `take` with the bytes of so many numbers at a time, the last filled up with zeros.
#[inline(always)]
fn for_each_piece(dtype: Dtype, bytes: &[u8], numbers: usize, mut take: impl FnMut(&[u8])) {
    let piece = numbers * dtype.size();
    for bytes in bytes.chunks(piece) {
        let mut last = [0; 2 * SIDE * size_of::<f32>()];
        if bytes.len() == piece {
            take(bytes);
        } else {
            last[..bytes.len()].copy_from_slice(bytes);
            take(&last[..piece]);
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

/// Swaps rows and columns of a tile.
#[target_feature(enable = "avx512f")]
pub fn transpose(tile: &mut Tile) {
    let rows = transposed(tile);
    for (row, vector) in tile.iter_mut().zip(rows) {
        store_words(vector, row);
    }
}

/// Swaps rows and columns: 32 rows of 16 words become 16 of 32.
#[target_feature(enable = "avx512f")]
pub fn transpose_step(step: &mut Step) {
    let tiles = step.0.as_chunks::<SIDE>().0;
    let (left, right) = (transposed(&tiles[0]), transposed(&tiles[1]));
    for ([first, second], (left, right)) in step.0.as_chunks_mut().0.iter_mut().zip(left.into_iter().zip(right)) {
        store_words(left, first);
        store_words(right, second);
    }
}

/// Blocks of 8 by 8 beside the diagonal change places, and so within each block those of 4, 2 and 1.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(tile: &Tile) -> [__m512i; SIDE] {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (vector, row) in rows.iter_mut().zip(tile) {
        // SAFETY: a row has the vector's 16 words.
        *vector = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
    }
    exchange::<8>(&mut rows);
    exchange::<4>(&mut rows);
    exchange::<2>(&mut rows);
    exchange::<1>(&mut rows);
    rows
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_words(vector: __m512i, row: &mut Row) {
    // SAFETY: a row has room for the vector's 16 words.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), vector) };
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
fn words(words: Row) -> __m512i {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// Multiply-adds of so many rounds in registers on this thread.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn in_registers(rounds: u64) -> u64 {
    /// Enough to keep two units of six cycles busy (12 did 92 % of this on a Zen 5).
    const CHAINS: usize = 20;
    let factor = pairs(_mm512_castsi512_ps(_mm512_set1_epi32(0x3f00_3f00)));
    let mut sums: [__m512; CHAINS] = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
    }
    std::hint::black_box(sums);
    rounds * (CHAINS * 2 * SIDE) as u64
}
