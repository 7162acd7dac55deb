//! Without special instructions: multiply-adds of f32, and packing for kernels of f32.

use super::{Row, SIDE, Step, Sums, Tile};
use crate::engine::cpu::vectors::vectorised;
use crate::tensor::{Dtype, widen_bf16, widen_f16};

/// Tokens whose sums with 16 outputs fit the registers of any processor with vectors of 32 bytes.
pub const TOKENS: usize = 4;

/// See [`super::Unit::add_products`]. Numbers of f32 have no parts.
pub fn add_products(sums: &mut [Sums], x: &[Step], w: &[Step]) {
    // A multiply-add that is no instruction is a slow call.
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("fma") {
        return add(sums, x, w, |sum, a, b| sum + a * b);
    }
    add(sums, x, w, |sum, a, b| a.mul_add(b, sum));
}

fn add(sums: &mut [Sums], x: &[Step], w: &[Step], add_product: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (sums, x) in sums.iter_mut().zip(x.chunks_exact(w.len())) {
        let quartets: &[[Row; TOKENS]] = bytemuck::cast_slice(x);
        for (quartet, x) in quartets.chunks_exact(w.len()).enumerate() {
            let [token, row] = [quartet * TOKENS / SIDE, quartet * TOKENS % SIDE];
            for (column, sums) in sums.0[token].iter_mut().enumerate() {
                vectorised(
                    #[inline(always)]
                    || {
                        let sums = sums[row..].first_chunk_mut::<TOKENS>().expect("tokens of a tile");
                        let mut registers = *sums;
                        for (x, w) in x.iter().zip(w) {
                            add_tile(&mut registers, x, &w.0.as_chunks().0[column], add_product);
                        }
                        *sums = registers;
                    },
                );
            }
        }
    }
}

#[inline(always)]
fn add_tile(sums: &mut [[f32; SIDE]; TOKENS], x: &[Row; TOKENS], w: &Tile, add_product: impl Fn(f32, f32, f32) -> f32) {
    for (k, w) in w.iter().enumerate() {
        for i in 0..TOKENS {
            for j in 0..SIDE {
                sums[i][j] = add_product(sums[i][j], f32::from_bits(x[i][k]), f32::from_bits(w[j]));
            }
        }
    }
}

/// Swaps rows and columns.
pub fn transpose(tile: &mut Tile) {
    let before = *tile;
    for (column, line) in tile.iter_mut().enumerate() {
        line.iter_mut().zip(&before).for_each(|(to, row)| *to = row[column]);
    }
}

/// See [`super::Unit::split`]: the numbers as `bits` has them.
pub fn whole<'a>(dtype: Dtype, bytes: &[u8], mut rows: impl Iterator<Item = &'a mut Row>, bits: impl Fn(f32) -> u32) {
    for_each_piece(
        dtype,
        bytes,
        #[inline(always)]
        |numbers| {
            let row = rows.next().expect("a row for every 16 inputs");
            for place in 0..SIDE {
                row[place] = bits(numbers[place]);
            }
        },
    );
}

/// Calls `take` with 16 numbers at a time, the last filled up with zeros.
fn for_each_piece(dtype: Dtype, bytes: &[u8], take: impl FnMut([f32; SIDE])) {
    #[inline(always)]
    fn each<T: Copy>(numbers: &[T], widen: impl Fn(T) -> f32, mut take: impl FnMut([f32; SIDE])) {
        let (whole, last) = numbers.as_chunks::<SIDE>();
        for numbers in whole {
            let mut values = [0.0; SIDE];
            for place in 0..SIDE {
                values[place] = widen(numbers[place]);
            }
            take(values);
        }
        if !last.is_empty() {
            let mut values = [0.0; SIDE];
            values.iter_mut().zip(last).for_each(|(value, &number)| *value = widen(number));
            take(values);
        }
    }
    vectorised(
        #[inline(always)]
        || match dtype {
            Dtype::F32 => each(bytes.as_chunks().0, f32::from_le_bytes, take),
            Dtype::F16 => each(bytes.as_chunks().0, widen_f16, take),
            Dtype::Bf16 => each(bytes.as_chunks().0, widen_bf16, take),
        },
    );
}

/// The bits of a number rounded to bf16, to nearest even. NaN stays NaN.
#[inline(always)]
pub fn rounded(number: f32) -> u32 {
    let bits = number.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    0xffff_0000 & if number.is_nan() { bits | 0x0040_0000 } else { rounded }
}
