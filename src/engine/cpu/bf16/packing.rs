//! Numbers as sums of bf16 numbers, in tiles.

use super::kernels::{Pair, SIDE, prefetch_line, turn};
use super::{BLOCK, Parts, STEP, STEPS};
use crate::engine::cpu::vectors::vectorised;
use crate::engine::{Dtype, HostTensor, widen};
use rayon::prelude::*;
use std::ops::Range;

/// Row-major `x [tokens, inputs]` as `[blocks of steps][blocks of tokens][steps][parts]`, of which each has its tokens' pairs of inputs.
pub fn activations(x: &[f32], inputs: usize, parts: Parts) -> Vec<Pair> {
    let tokens = x.len() / inputs;
    let blocks = tokens.div_ceil(BLOCK);
    let mut packed = bytemuck::zeroed_vec(blocks * inputs.div_ceil(STEP) * parts.activation);
    packed.par_chunks_mut(STEPS * blocks * parts.activation).enumerate().for_each(|(index, packed)| {
        let first = index * STEPS * STEP;
        let taken = first..(first + STEPS * STEP).min(inputs);
        for (packed, x) in packed.chunks_exact_mut(packed.len() / blocks).zip(x.chunks(BLOCK * inputs)) {
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                split(&x[taken.clone()], parts.activation, row, packed);
            }
        }
    });
    packed
}

/// Some inputs of the 32 rows of the weight from `first` on as `[steps][parts]`, of which each has pairs of inputs of all outputs.
pub fn weights(weight: &HostTensor, first: usize, inputs: Range<usize>, parts: usize, row: &mut Vec<f32>, packed: &mut Vec<Pair>) {
    packed.resize(inputs.len().div_ceil(STEP) * parts, Pair::default());
    row.resize(inputs.len(), 0.0);
    let outputs = BLOCK.min(weight.rows - first);
    if outputs < BLOCK {
        packed.fill(Pair::default());
    }
    let size = weight.dtype.size();
    for output in 0..outputs {
        let start = (first + output) * weight.row_bytes();
        let bytes = &weight.bytes.as_ref()[start + inputs.start * size..start + inputs.end * size];
        if weight.dtype == Dtype::Bf16 {
            copy(bytes, output, packed);
        } else {
            widen(weight.dtype, bytes, row);
            split(row, parts, output, packed);
        }
    }
    packed.iter_mut().flat_map(|pair| &mut pair.0).for_each(turn);
}

/// Asks the L2 cache for some inputs of the 32 rows of the weight from `first` on.
pub fn prefetch(weight: &HostTensor, first: usize, inputs: Range<usize>) {
    /// Bytes of a cache line.
    const LINE: usize = 64;
    let size = weight.dtype.size();
    for output in first..(first + BLOCK).min(weight.rows) {
        let start = output * weight.row_bytes();
        for line in weight.bytes.as_ref()[start + inputs.start * size..start + inputs.end * size].chunks(LINE) {
            prefetch_line(line);
        }
    }
}

/// Writes one row of `[steps]` of bf16 numbers as they are.
fn copy(bytes: &[u8], row: usize, packed: &mut [Pair]) {
    for (bytes, pair) in bytes.chunks(2 * STEP).zip(packed) {
        let line: &mut [u8; 2 * STEP] = bytemuck::cast_mut(&mut pair.0[row / SIDE][row % SIDE]);
        if let Ok(bytes) = bytes.try_into() {
            *line = bytes;
        } else {
            line[..bytes.len()].copy_from_slice(bytes);
            line[bytes.len()..].fill(0);
        }
    }
}

/// Writes one row of `[steps][parts]`: each part is what the ones before have left over, rounded to bf16.
fn split(values: &[f32], parts: usize, row: usize, packed: &mut [Pair]) {
    let mut steps = packed.chunks_exact_mut(parts);
    let (whole, last) = values.as_chunks::<STEP>();
    vectorised(
        #[inline(always)]
        || {
            for (values, parts) in whole.iter().zip(&mut steps) {
                split_step(*values, row, parts);
            }
            if !last.is_empty() {
                let mut values = [0.0; STEP];
                values[..last.len()].copy_from_slice(last);
                split_step(values, row, steps.next().expect("a step for every 32 inputs"));
            }
        },
    );
}

#[inline(always)]
fn split_step(mut left: [f32; STEP], row: usize, parts: &mut [Pair]) {
    for part in parts {
        let line: &mut [u16; STEP] = bytemuck::cast_mut(&mut part.0[row / SIDE][row % SIDE]);
        for (line, left) in line.iter_mut().zip(&mut left) {
            let rounded = round(*left);
            *line = (rounded >> 16) as u16;
            *left -= f32::from_bits(rounded & 0xffff_0000);
        }
    }
}

/// The bits of a number rounded to nearest even at 16 bits, in the upper half; the lower half is left over. NaN stays NaN.
#[inline(always)]
fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if value.is_nan() { bits | 0x0040_0000 } else { rounded }
}
