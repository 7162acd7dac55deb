//! Matrix products of bf16 numbers with f32 sums, on what processors have for them: matrix units (AMX), or dot products in vectors (AVX-512
//! BF16). A processor without either computes the same up to the rounding of sums, more slowly than in f32.
//!
//! A product of f32 numbers is made of such products too: a number is the sum of three bf16 numbers, of which each rounds what the one
//! before has left over, so nothing is lost; f16 numbers are the sum of two. Matrix units are so much faster that this pays.
//!
//! Tokens and outputs stand in blocks of 32 by 32, inputs in steps of 32, all filled up with zeros, so kernels know no edges. A thread takes
//! a group of strips of 32 outputs through all tokens, a block of inputs at a time: the activations of these inputs stay in the L2 cache
//! while the strips pass by, the weights of a strip in the L1 cache while the tokens do.

mod kernels;
mod packed;
mod packing;

pub use kernels::Unit;
pub use packed::PackedMatrix;

use super::linear::SharedOutput;
use crate::tensor::Dtype;
use kernels::{Ahead, Pair, SIDE, STEP, Sums};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Tokens, and outputs, of a block.
const BLOCK: usize = 2 * SIDE;
/// Tokens multiplied at a time, whatever a batch has.
const TOKENS: usize = 512;
/// Strips of a group at most: their sums take 512 KiB. With the activations that they share, and the next, they fill half of an L2 cache of
/// 2 MiB.
const GROUP: usize = 8;

/// bf16 numbers that stand for one number, of the activations and of the weight.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    activation: usize,
    weight: usize,
}

impl Parts {
    /// Both rounded to bf16, to nearest even.
    pub const ROUNDED: Self = Self { activation: 1, weight: 1 };

    /// Without loss, for a weight in this format: f32 has three times the digits of bf16, f16 less than twice.
    pub fn of(weight: Dtype) -> Self {
        let weight = match weight {
            Dtype::Bf16 => 1,
            Dtype::F16 => 2,
            Dtype::F32 => 3,
        };
        Self { activation: 3, weight }
    }

    /// Steps taken at a time. All activations of these inputs take 256 KiB, in three parts 384; the weights of a strip at most half of an L1
    /// cache of 48 KiB.
    fn steps(self) -> usize {
        if self.activation == 1 { 8 } else { 4 }
    }

    /// Products of parts for one product. Those that are left out are below 2^-24 of it.
    pub fn products(self) -> usize {
        (0..self.weight).map(|place| self.activation - place).sum()
    }
}

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    /// Packed weights `[steps, parts]` of a strip.
    panel: Vec<Pair>,
    /// Sums `[strips, blocks of tokens]` of a group.
    sums: Vec<Sums>,
}

/// `x [tokens, in]` times `weight [out, in]` transposed, plus `bias [out]`.
pub fn linear(unit: Unit, parts: Parts, x: &[f32], weight: &PackedMatrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (inputs, outputs) = (weight.tensor.columns, weight.tensor.rows);
    let tokens = x.len() / inputs;
    assert_eq!(x.len(), tokens * inputs, "activations do not fit the matrix");
    // Not zeroed, which was seen to slow bf16 products down.
    let mut y = Vec::with_capacity(tokens * outputs);
    let out = SharedOutput(y.as_mut_ptr());
    for (index, x) in x.chunks(TOKENS * inputs).enumerate() {
        multiply(unit, parts, x, weight, bias, SharedOutput(out.at(index * TOKENS * outputs)));
    }
    // SAFETY: all of it has been written.
    unsafe { y.set_len(tokens * outputs) };
    y
}

/// Writes `[tokens, out]` for as many tokens as `x` has.
fn multiply(unit: Unit, parts: Parts, x: &[f32], weight: &PackedMatrix, bias: Option<&[f32]>, out: SharedOutput) {
    let (inputs, outputs) = (weight.tensor.columns, weight.tensor.rows);
    let tokens = x.len() / inputs;
    let (blocks, steps, strips) = (tokens.div_ceil(BLOCK), inputs.div_ceil(STEP), outputs.div_ceil(BLOCK));
    let packed = packing::activations(unit, x, inputs, parts);
    // Several groups for every thread.
    let group = (strips / (4 * rayon::current_num_threads())).clamp(1, GROUP);
    (0..strips.div_ceil(group)).into_par_iter().for_each_init(Scratch::default, |scratch, index| {
        let group = index * group..((index + 1) * group).min(strips);
        let Scratch { panel, sums } = scratch;
        sums.clear();
        sums.resize(group.len() * blocks, Sums::default());
        let slab = parts.steps() * blocks * parts.activation;
        for (index, x) in packed.chunks(slab).enumerate() {
            let steps = index * parts.steps()..((index + 1) * parts.steps()).min(steps);
            for (place, (strip, sums)) in group.clone().zip(sums.chunks_exact_mut(blocks)).enumerate() {
                let next = if strip + 1 < group.end { (strip + 1, steps.start) } else { (group.start, steps.end) };
                let (weights, row_bytes) = weight.source(parts, next);
                // Each strip of the group has a part of the next slab fetched.
                let soon = &packed[(index * slab + slab + place * slab / GROUP).min(packed.len())..];
                let panel = weight.panel(unit, parts, strip, steps.clone(), panel);
                unit.add_products(parts, sums, x, panel, Ahead { weights, row_bytes, x: soon });
            }
        }
        let columns = group.start * BLOCK..(group.end * BLOCK).min(outputs);
        for token in 0..tokens {
            let start = out.at(token * outputs + columns.start);
            // SAFETY: these columns of the row-major output belong to this group alone; the caller has room for all of it.
            let y = unsafe { std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<f32>>(), columns.len()) };
            for (y, sums) in y.chunks_mut(BLOCK).zip(sums.iter().skip(token / BLOCK).step_by(blocks)) {
                sums.write_row(token % BLOCK, y);
            }
            if let Some(bias) = bias {
                // SAFETY: all of it was just written: a block of sums for every block of columns.
                let y = unsafe { std::slice::from_raw_parts_mut(start, columns.len()) };
                y.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, bias)| *y += bias);
            }
        }
    });
}
