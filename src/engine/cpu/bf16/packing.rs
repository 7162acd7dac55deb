//! Numbers as sums of bf16 numbers, in tiles.

use super::kernels::{Pair, STEP, Unit};
use super::{BLOCK, Parts};
use crate::tensor::{Dtype, HostTensor};
use rayon::prelude::*;
use std::ops::Range;

/// Row-major `x [tokens, inputs]` as `[blocks of steps][blocks of tokens][steps][parts]`, of which each has its tokens' pairs of inputs.
pub fn activations(unit: Unit, x: &[f32], inputs: usize, parts: Parts) -> Vec<Pair> {
    let tokens = x.len() / inputs;
    let blocks = tokens.div_ceil(BLOCK);
    let mut packed = bytemuck::zeroed_vec(blocks * inputs.div_ceil(STEP) * parts.activation);
    packed.par_chunks_mut(parts.steps() * blocks * parts.activation).enumerate().for_each(|(index, packed)| {
        let first = index * parts.steps() * STEP;
        let taken = first..(first + parts.steps() * STEP).min(inputs);
        for (packed, x) in packed.chunks_exact_mut(packed.len() / blocks).zip(x.chunks(BLOCK * inputs)) {
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                unit.split(Dtype::F32, bytemuck::cast_slice(&x[taken.clone()]), parts.activation, row, packed);
            }
        }
    });
    packed
}

/// Some inputs of the 32 rows of the weight from `first` on as `[steps][parts]`, of which each has pairs of inputs of all outputs.
pub fn weights(unit: Unit, weight: &HostTensor, first: usize, inputs: Range<usize>, parts: usize, packed: &mut Vec<Pair>) {
    packed.resize(inputs.len().div_ceil(STEP) * parts, Pair::default());
    let outputs = BLOCK.min(weight.rows - first);
    if outputs < BLOCK {
        packed.fill(Pair::default());
    }
    let size = weight.dtype.size();
    for output in 0..outputs {
        let start = (first + output) * weight.row_bytes();
        let bytes = &weight.bytes.as_ref()[start + inputs.start * size..start + inputs.end * size];
        unit.split(weight.dtype, bytes, parts, output, packed);
    }
    packed.iter_mut().flat_map(|pair| &mut pair.0).for_each(|tile| unit.transpose(tile));
}
