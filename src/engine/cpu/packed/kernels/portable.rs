//! Without special instructions: bf16 numbers in f32, of which each is one, and packing for any kernel.

use super::{Ahead, Parts, Row, SIDE, Step, Sums, Tile};
use crate::engine::cpu::vectors::vectorised;
use crate::tensor::Dtype;
use crate::tensor::{widen_bf16, widen_f16};

/// Tokens whose sums with 16 outputs fit the registers of any processor with vectors of 32 bytes.
const TOKENS: usize = 4;

/// See [`super::Unit::add_products`].
pub fn add_products(parts: Parts, sums: &mut [Sums], x: &[Step], w: &[Step], _: Ahead<'_>) {
    // A multiply-add that is no instruction is a slow call.
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("fma") {
        return add(parts, sums, x, w, |sum, a, b| sum + a * b);
    }
    add(parts, sums, x, w, |sum, a, b| a.mul_add(b, sum));
}

fn add(parts: Parts, sums: &mut [Sums], x: &[Step], w: &[Step], add_product: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (sums, x) in sums.iter_mut().zip(x.chunks_exact(w.len() / parts.weight * parts.activation)) {
        for (tile_row, sums) in sums.0.iter_mut().enumerate() {
            for (tile_column, sums) in sums.iter_mut().enumerate() {
                for (index, sums) in sums.as_chunks_mut::<TOKENS>().0.iter_mut().enumerate() {
                    vectorised(
                        #[inline(always)]
                        || {
                            let mut part = [[0.0f32; SIDE]; TOKENS];
                            for (x, w) in x.chunks_exact(parts.activation).zip(w.chunks_exact(parts.weight)) {
                                for (place, w) in w.iter().enumerate() {
                                    for x in &x[..parts.activation - place] {
                                        let x = &x.0.as_chunks::<TOKENS>().0[tile_row * SIDE / TOKENS + index];
                                        add_tile(&mut part, x, &w.0.as_chunks().0[tile_column], add_product);
                                    }
                                }
                            }
                            sums.as_flattened_mut().iter_mut().zip(part.as_flattened()).for_each(|(sum, part)| *sum += part);
                        },
                    );
                }
            }
        }
    }
}

#[inline(always)]
fn add_tile(sums: &mut [[f32; SIDE]; TOKENS], x: &[Row; TOKENS], w: &Tile, add_product: impl Fn(f32, f32, f32) -> f32) {
    let first = |pair: u32| f32::from_bits(pair << 16);
    let second = |pair: u32| f32::from_bits(pair & 0xffff_0000);
    for (k, w) in w.iter().enumerate() {
        for i in 0..TOKENS {
            for j in 0..SIDE {
                sums[i][j] = add_product(sums[i][j], first(x[i][k]), first(w[j]));
                sums[i][j] = add_product(sums[i][j], second(x[i][k]), second(w[j]));
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

/// See [`super::Unit::split`].
pub fn split<'a>(dtype: Dtype, bytes: &[u8], parts: usize, mut rows: impl Iterator<Item = &'a mut Row>) {
    for_each_piece(
        dtype,
        bytes,
        #[inline(always)]
        |mut left: [f32; 2 * SIDE]| {
            for row in rows.by_ref().take(parts) {
                let line: &mut [u16; 2 * SIDE] = bytemuck::cast_mut(row);
                for (line, left) in line.iter_mut().zip(&mut left) {
                    let rounded = round(*left);
                    *line = (rounded >> 16) as u16;
                    *left -= f32::from_bits(rounded & 0xffff_0000);
                }
            }
        },
    );
}

/// See [`super::Unit::split`].
pub fn whole<'a>(dtype: Dtype, bytes: &[u8], mut rows: impl Iterator<Item = &'a mut Row>) {
    for_each_piece(
        dtype,
        bytes,
        #[inline(always)]
        |numbers: [f32; SIDE]| {
            *rows.next().expect("a row for every 16 inputs") = numbers.map(f32::to_bits);
        },
    );
}

/// Calls `take` with so many numbers at a time, the last filled up with zeros.
fn for_each_piece<const COUNT: usize>(dtype: Dtype, bytes: &[u8], take: impl FnMut([f32; COUNT])) {
    #[inline(always)]
    fn each<T: Copy, const COUNT: usize>(numbers: &[T], widen: impl Fn(T) -> f32, mut take: impl FnMut([f32; COUNT])) {
        let (whole, last) = numbers.as_chunks::<COUNT>();
        for numbers in whole {
            let mut values = [0.0; COUNT];
            for place in 0..COUNT {
                values[place] = widen(numbers[place]);
            }
            take(values);
        }
        if !last.is_empty() {
            let mut values = [0.0; COUNT];
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

/// The bits of a number rounded to nearest even at 16 bits, in the upper half; the lower half is left over. NaN stays NaN.
#[inline(always)]
fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if value.is_nan() { bits | 0x0040_0000 } else { rounded }
}
