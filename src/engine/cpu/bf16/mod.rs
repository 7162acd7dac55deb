//! Matrix products of bf16 numbers with f32 sums: with the dot products of AVX-512 BF16, twice as many multiply-adds in the same time
//! as f32. A processor without them computes the same up to the rounding of sums, more slowly than in f32.
//!
//! A strip of 48 outputs at a time is computed for all tokens, in tiles of 8 tokens. Its weights are packed 256 inputs at a time:
//! 24 KiB, which stay in the L1 cache while the tiles pass by. Tiles are filled up with zeros, so kernels know no edges.

mod tile;

pub use tile::{dot_products, has_dot_products};

use super::linear::SharedOutput;
use super::vectors::vectorised;
use crate::engine::{HostTensor, widen};
use rayon::prelude::*;
use std::ops::Range;
use tile::{COLUMNS, ROWS, Sums};

/// Pairs of inputs whose weights are packed at a time.
const PAIRS: usize = 128;

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    /// Packed weights `[pairs]` of a strip.
    panel: Vec<[u32; COLUMNS]>,
    /// The strip's sums `[tiles]`.
    sums: Vec<Sums>,
    values: Vec<f32>,
    pairs: Vec<u32>,
}

/// `x [tokens, in]` times `weight [out, in]` transposed, plus `bias [out]`; x and the weight rounded to bf16, to nearest even.
pub fn linear(x: &[f32], weight: &HostTensor, bias: Option<&[f32]>) -> Vec<f32> {
    let (inputs, outputs) = (weight.columns, weight.rows);
    let tokens = x.len() / inputs;
    assert_eq!(x.len(), tokens * inputs, "activations do not fit the matrix");
    let add_products = tile::kernel();
    let pairs = inputs.div_ceil(2);
    let packed = pack_activations(x, inputs);
    let mut y = vec![0.0f32; tokens * outputs];
    let out = SharedOutput(y.as_mut_ptr());
    (0..outputs.div_ceil(COLUMNS)).into_par_iter().for_each_init(Scratch::default, |scratch, strip| {
        let rows = strip * COLUMNS..((strip + 1) * COLUMNS).min(outputs);
        scratch.sums.clear();
        scratch.sums.resize(tokens.div_ceil(ROWS), [[0.0; COLUMNS]; ROWS]);
        for first in (0..pairs).step_by(PAIRS) {
            let block = first..(first + PAIRS).min(pairs);
            pack_weights(weight, rows.clone(), block.clone(), scratch);
            for (sums, x) in scratch.sums.iter_mut().zip(packed.chunks_exact(pairs)) {
                add_products(sums, &x[block.clone()], &scratch.panel);
            }
        }
        for (token, sums) in scratch.sums.iter().flatten().take(tokens).enumerate() {
            // SAFETY: the columns `rows` of the row-major output belong to this strip alone; `y` outlives the loop.
            let y = unsafe { std::slice::from_raw_parts_mut(out.at(token * outputs + rows.start), rows.len()) };
            y.copy_from_slice(&sums[..rows.len()]);
            if let Some(bias) = bias {
                y.iter_mut().zip(&bias[rows.clone()]).for_each(|(y, bias)| *y += bias);
            }
        }
    });
    y
}

/// `[tiles, pairs]` of the pairs of eight tokens each; what does not exist is zero.
fn pack_activations(x: &[f32], inputs: usize) -> Vec<[u32; ROWS]> {
    let pairs = inputs.div_ceil(2);
    let tiles = (x.len() / inputs).div_ceil(ROWS);
    let mut packed = vec![[0u32; ROWS]; tiles * pairs];
    packed.par_chunks_mut(pairs).zip(x.par_chunks(ROWS * inputs)).for_each_init(Vec::new, |line, (packed, x)| {
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            round_to_pairs(x, line);
            packed.iter_mut().zip(&*line).for_each(|(packed, &pair)| packed[row] = pair);
        }
    });
    packed
}

/// Packs the pairs `block` of the weight's rows `rows` into `scratch.panel`.
fn pack_weights(weight: &HostTensor, rows: Range<usize>, block: Range<usize>, scratch: &mut Scratch) {
    let Scratch { panel, values, pairs, .. } = scratch;
    panel.clear();
    panel.resize(block.len(), [0; COLUMNS]);
    let inputs = 2 * block.start..(2 * block.end).min(weight.columns);
    values.resize(inputs.len(), 0.0);
    let size = weight.dtype.size();
    for (column, row) in rows.enumerate() {
        let start = row * weight.row_bytes();
        widen(weight.dtype, &weight.bytes.as_ref()[start + inputs.start * size..start + inputs.end * size], values);
        round_to_pairs(values, pairs);
        panel.iter_mut().zip(&*pairs).for_each(|(line, &pair)| line[column] = pair);
    }
}

/// Pairs of neighbours as bf16, the first in the lower half; an odd last number has zero beside it.
fn round_to_pairs(values: &[f32], pairs: &mut Vec<u32>) {
    pairs.resize(values.len().div_ceil(2), 0);
    vectorised(
        #[inline(always)]
        || {
            let (whole, last) = values.as_chunks::<2>();
            for (pair, &[first, second]) in pairs.iter_mut().zip(whole) {
                *pair = round(first) >> 16 | (round(second) & 0xffff_0000);
            }
            if let &[last] = last {
                pairs[whole.len()] = round(last) >> 16;
            }
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
