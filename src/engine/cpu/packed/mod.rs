//! Matrix products of our own with f32 sums, on what processors have for them: multiply-adds of f32 (AVX-512, AVX2), matrix units (AMX) or
//! dot products in vectors (AVX-512 BF16) for bf16 numbers. A processor without either of the latter multiplies the rounded numbers in f32,
//! which is the same up to the rounding of sums.
//!
//! A product of f32 numbers can be made of bf16 numbers: it is the sum of three, of which each rounds what the one before has left over, so
//! nothing is lost; f16 numbers are the sum of two. Matrix units are so much faster that this pays.
//!
//! Tokens and outputs stand in blocks of 32 by 32, inputs in steps of 32, or of 16 f32 numbers, all filled up with zeros, so kernels know no
//! edges. A thread takes a group of strips of 32 outputs through all tokens, a block of inputs at a time: the activations of these inputs
//! stay in the L2 cache while the strips pass by, the weights of a strip in the L1 cache while the tokens do.

mod kernels;
mod matrix;
mod packing;

pub use kernels::Unit;
pub use matrix::PackedMatrix;

use super::buffers::Buffers;
use super::linear::SharedOutput;
use crate::tensor::Dtype;
use kernels::{Ahead, BLOCK, Step, Sums};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Tokens multiplied at a time, whatever a batch has.
const TOKENS: usize = 512;
/// Strips of a group at most: their sums take 512 KiB. With the activations that they share, and the next, they fill half of an L2 cache of
/// 2 MiB.
const GROUP: usize = 8;

/// Numbers of a format that stand for one, of the activations and of the weight.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    format: Dtype,
    activation: usize,
    weight: usize,
}

impl Parts {
    /// Each rounded to bf16, to nearest even.
    pub const BF16: Self = Self { format: Dtype::Bf16, activation: 1, weight: 1 };

    /// Without loss, for a weight in this format: f32 has three times the digits of bf16, f16 less than twice.
    pub fn of_f32(unit: Unit, weight: Dtype) -> Self {
        let (activation, weight) = match (unit.multiplies(), weight) {
            (Dtype::Bf16, Dtype::Bf16) => (3, 1),
            (Dtype::Bf16, Dtype::F16) => (3, 2),
            (Dtype::Bf16, Dtype::F32) => (3, 3),
            _ => (1, 1),
        };
        Self { format: unit.multiplies(), activation, weight }
    }

    /// Steps taken at a time. All activations of these inputs take 256 KiB, in three parts 384; the weights of a strip at most half of an L1
    /// cache of 48 KiB (16 of 32 KiB where there are no parts).
    fn steps(self) -> usize {
        if self.activation == 1 { 8 } else { 4 }
    }

    /// Products of parts for one product. Those that are left out are below 2^-24 of it.
    pub fn products(self) -> usize {
        (0..self.weight).map(|place| self.activation - place).sum()
    }
}

/// `y [tokens, out]` is `x [tokens, in]` times `weight [out, in]` transposed, plus `bias [out]`.
pub fn linear(unit: Unit, parts: Parts, x: &[f32], weight: &PackedMatrix, bias: Option<&[f32]>, buffers: &Buffers, y: &mut [f32]) {
    let (inputs, outputs) = (weight.tensor.columns, weight.tensor.rows);
    let tokens = x.len() / inputs;
    assert!(x.len() == tokens * inputs && y.len() == tokens * outputs, "activations do not fit the matrix");
    for (x, y) in x.chunks(TOKENS * inputs).zip(y.chunks_mut(TOKENS * outputs)) {
        let tokens = x.len() / inputs;
        let steps = tokens.div_ceil(BLOCK) * inputs.div_ceil(unit.step()) * parts.activation;
        let mut packed = buffers.take(steps * size_of::<Step>() / size_of::<f32>());
        packing::activations(unit, x, inputs, parts, bytemuck::cast_slice_mut(&mut packed));
        let y = SharedOutput(y.as_mut_ptr());
        Product { unit, parts, tokens, x: bytemuck::cast_slice(&packed), weight, bias, y }.run();
    }
}

/// A product of packed activations.
struct Product<'a> {
    unit: Unit,
    parts: Parts,
    tokens: usize,
    x: &'a [Step],
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    y: SharedOutput,
}

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    /// Packed weights `[steps, parts]` of a strip.
    panel: Vec<Step>,
    /// Sums `[strips, blocks of tokens]` of a group.
    sums: Vec<Sums>,
}

impl Product<'_> {
    /// Shares the strips out to all threads, in groups that become smaller, so that no thread waits long for another's last.
    fn run(&self) {
        let (strips, threads) = (self.weight.tensor.rows.div_ceil(BLOCK), rayon::current_num_threads());
        let end_of = |first: usize| first + ((strips - first) / (2 * threads)).clamp(1, GROUP);
        let begun = AtomicUsize::new(0);
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            let mut scratch = Scratch::default();
            while let Ok(first) = begun.fetch_update(Relaxed, Relaxed, |first| (first < strips).then(|| end_of(first))) {
                self.group(first..end_of(first), &mut scratch);
            }
        });
    }

    /// All outputs of some strips.
    fn group(&self, group: Range<usize>, Scratch { panel, sums }: &mut Scratch) {
        let &Self { unit, parts, tokens, x: packed, weight, bias, y } = self;
        let (inputs, outputs) = (weight.tensor.columns, weight.tensor.rows);
        let (blocks, steps) = (tokens.div_ceil(BLOCK), inputs.div_ceil(unit.step()));
        sums.clear();
        sums.resize(group.len() * blocks, Sums::default());
        let slab = parts.steps() * blocks * parts.activation;
        for (index, x) in packed.chunks(slab).enumerate() {
            let steps = index * parts.steps()..((index + 1) * parts.steps()).min(steps);
            for (place, (strip, sums)) in group.clone().zip(sums.chunks_exact_mut(blocks)).enumerate() {
                let next = if strip + 1 < group.end { (strip + 1, steps.start) } else { (group.start, steps.end) };
                let (weights, row_bytes) = weight.source(unit, parts, next);
                // Each strip of the group has a part of the next slab fetched.
                let soon = &packed[(index * slab + slab + place * slab / GROUP).min(packed.len())..];
                let panel = weight.panel(unit, parts, strip, steps.clone(), panel);
                unit.add_products(parts, sums, x, panel, Ahead { weights, row_bytes, x: soon });
            }
        }
        let columns = group.start * BLOCK..(group.end * BLOCK).min(outputs);
        for token in 0..tokens {
            // SAFETY: these columns of the row-major output belong to this group alone; whoever runs the product has the output borrowed.
            let y = unsafe { std::slice::from_raw_parts_mut(y.at(token * outputs + columns.start), columns.len()) };
            for (y, sums) in y.chunks_mut(BLOCK).zip(sums.iter().skip(token / BLOCK).step_by(blocks)) {
                sums.write_row(token % BLOCK, y);
            }
            if let Some(bias) = bias {
                y.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, bias)| *y += bias);
            }
        }
    }
}
