//! Numbers in rows and tiles, as kernels read them.

use super::Parts;
use super::kernels::{BLOCK, Row, Step, Unit};
use crate::tensor::{Dtype, HostTensor};
use rayon::prelude::*;
use std::ops::Range;

/// Writes row-major `x [tokens, inputs]` as `packed [blocks of steps][blocks of tokens]`, of which each has `[tokens, steps, parts]` in groups
/// of as many tokens as the unit reads together.
pub fn activations(unit: Unit, x: &[f32], inputs: usize, parts: Parts, packed: &mut [Step]) {
    let tokens = x.len() / inputs;
    let blocks = tokens.div_ceil(BLOCK);
    if !tokens.is_multiple_of(BLOCK) {
        packed.fill(Step::default());
    }
    packed.par_chunks_mut(parts.steps() * blocks * parts.activation).enumerate().for_each(|(index, packed)| {
        let first = index * parts.steps() * unit.step();
        let taken = first..(first + parts.steps() * unit.step()).min(inputs);
        for (packed, x) in packed.chunks_exact_mut(packed.len() / blocks).zip(x.chunks(BLOCK * inputs)) {
            for (token, x) in x.chunks_exact(inputs).enumerate() {
                let rows = rows_of(packed, token, unit.tokens_together());
                unit.split(Dtype::F32, bytemuck::cast_slice(&x[taken.clone()]), parts.format, parts.activation, rows);
            }
        }
    });
}

/// Some inputs of the 32 rows of the weight from `first` on as `[steps][parts]`, of which each has words of inputs of all outputs.
pub fn weights(unit: Unit, weight: &HostTensor, first: usize, inputs: Range<usize>, parts: Parts, packed: &mut Vec<Step>) {
    packed.resize(inputs.len().div_ceil(unit.step()) * parts.weight, Step::default());
    let outputs = BLOCK.min(weight.rows - first);
    if outputs < BLOCK {
        packed.fill(Step::default());
    }
    let size = weight.dtype.size();
    for output in 0..outputs {
        let start = (first + output) * weight.row_bytes();
        let bytes = &weight.bytes.as_ref()[start + inputs.start * size..start + inputs.end * size];
        unit.split(weight.dtype, bytes, parts.format, parts.weight, rows_of(packed, output, BLOCK));
    }
    packed.iter_mut().for_each(|step| unit.transpose(step));
}

/// The rows of one of 32 tokens or outputs, for every step, where so many lie together.
fn rows_of(packed: &mut [Step], place: usize, together: usize) -> impl Iterator<Item = &mut Row> {
    let first = place / together * packed.len() * together + place % together;
    let rows: &mut [Row] = bytemuck::cast_slice_mut(packed);
    rows[first..].iter_mut().step_by(together)
}
