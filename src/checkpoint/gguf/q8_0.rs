//! The form Q8_0: blocks of 32 numbers, each an f16 scale `d` and 32 signed bytes `q`, for `d q`.

use half::f16;
use rayon::prelude::*;

/// Numbers of a block.
pub const BLOCK: usize = 32;
/// Bytes of a block.
const BLOCK_BYTES: usize = 2 + BLOCK;
/// Blocks that one task converts.
const TASK: usize = 1 << 11;

/// Bytes of `count` numbers, which must be whole blocks.
#[must_use]
pub fn bytes(count: usize) -> usize {
    count / BLOCK * BLOCK_BYTES
}

/// Appends `values`, whole blocks, to `out`. A block's largest magnitude becomes 127; halves round away from zero.
pub fn encode(values: &[f32], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes(values.len()), 0);
    let tasks = out[start..].par_chunks_mut(TASK * BLOCK_BYTES).zip(values.par_chunks(TASK * BLOCK));
    tasks.for_each(|(out, values)| {
        for (out, values) in out.chunks_exact_mut(BLOCK_BYTES).zip(values.chunks_exact(BLOCK)) {
            let scale = values.iter().fold(0.0f32, |largest, v| largest.max(v.abs())) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            for (out, value) in out[2..].iter_mut().zip(values) {
                *out = (value * inverse).round() as i8 as u8;
            }
        }
    });
}

/// Widens whole blocks.
pub fn decode(blocks: &[u8], out: &mut [f32]) {
    let tasks = out.par_chunks_mut(TASK * BLOCK).zip(blocks.par_chunks(TASK * BLOCK_BYTES));
    tasks.for_each(|(out, blocks)| {
        for (out, block) in out.chunks_exact_mut(BLOCK).zip(blocks.chunks_exact(BLOCK_BYTES)) {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            for (out, &byte) in out.iter_mut().zip(&block[2..]) {
                *out = scale * f32::from(byte as i8);
            }
        }
    });
}
