//! The innermost loops: products of blocks, and of registers alone to find out what a core does at best.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::Parts;
use crate::engine::cpu::peak::multiply_adds;
use crate::tensor::Dtype;

/// Rows of a tile, and words of a row.
pub const SIDE: usize = 16;

/// Tokens, and outputs, of a block.
pub const BLOCK: usize = 2 * SIDE;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Words: numbers in f32, or pairs of bf16 numbers, the first in the lower half.
pub type Row = [u32; SIDE];

/// As many rows.
pub type Tile = [Row; SIDE];

/// A step of inputs, as many as a row holds, of 32 tokens or 32 outputs.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Step(pub [Row; BLOCK]);

/// Sums of 32 tokens by 32 outputs: `[tokens / 16][outputs / 16]`, of which each has rows of tokens.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Sums([[[[f32; SIDE]; SIDE]; 2]; 2]);

impl Sums {
    /// Writes the first outputs of a token, all of `y`.
    pub fn write_row(&self, token: usize, y: &mut [f32]) {
        for (y, half) in y.chunks_mut(SIDE).zip(&self.0[token / SIDE]) {
            y.copy_from_slice(&half[token % SIDE][..y.len()]);
        }
    }
}

/// What may be fetched while products are made. It need not be there to its end.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "processors with matrix units fetch it"))]
pub struct Ahead<'a> {
    /// The weights that come next, two rows with every block of tokens: a line of each with every step, for every part.
    pub weights: &'a [u8],
    /// From one row to the next.
    pub row_bytes: usize,
    /// The activations that come next: four lines with every step, for every part.
    pub x: &'a [Step],
}

/// Instructions that multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Matrix units: 16 by 16 sums of 32 products of bf16 numbers each an instruction.
    Amx,
    /// 16 sums of two products of bf16 numbers each.
    Avx512Bf16,
    /// 16 products of f32 numbers.
    Avx512,
    /// 8 products of f32 numbers.
    Avx2,
    /// Products of f32 numbers, by what any processor has.
    Portable,
}

impl Unit {
    /// Whether this processor has it, and the system lets it be used.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => avx512::has_bf16(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Those of this processor, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Amx, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Portable].into_iter().filter(|unit| unit.is_available())
    }

    /// What it multiplies: bf16, or f32.
    #[must_use]
    pub fn multiplies(self) -> Dtype {
        match self {
            Self::Amx | Self::Avx512Bf16 => Dtype::Bf16,
            Self::Avx512 | Self::Avx2 | Self::Portable => Dtype::F32,
        }
    }

    /// The fastest of this processor for bf16 numbers.
    #[must_use]
    pub fn fastest_of_bf16() -> Self {
        Self::available().next().expect("the last is always there")
    }

    /// Inputs of a step.
    pub(super) fn step(self) -> usize {
        SIDE * size_of::<u32>() / self.multiplies().size()
    }

    /// Tokens of which a kernel reads a step together: their rows lie one after the other.
    pub(super) fn tokens_together(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => avx512::TOKENS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::TOKENS,
            Self::Portable => portable::TOKENS,
            _ => BLOCK,
        }
    }

    /// `sums += x w`, for blocks of tokens: `x [blocks, steps, parts]`, `w [steps, parts]`. Pairs of parts whose places add up to as many
    /// as the activations have are left out: their products are below 2^-24 of those of the first. What comes next may be fetched
    /// meanwhile.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "other processors' units have no parts and fetch nothing"))]
    pub(super) fn add_products(self, parts: Parts, sums: &mut [Sums], x: &[Step], w: &[Step], next: Ahead<'_>) {
        match self {
            // SAFETY: an engine is only made with a unit that its processor has.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { amx::add_products(parts, sums, x, w, next) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { avx512::add_bf16_products(parts, sums, x, w) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::add_products(parts, sums, x, w) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::add_products(sums, x, w) },
            _ => portable::add_products(sums, x, w),
        }
    }

    /// Runs `rounds` rounds of products in registers on this thread and returns the number of multiply-adds done.
    pub(in crate::engine::cpu) fn in_registers(self, rounds: u64) -> u64 {
        match self {
            // SAFETY: the arithmetic has made sure that the processor has the unit.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { amx::in_registers(rounds) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => unsafe { avx512::in_registers(rounds) },
            _ => multiply_adds(rounds),
        }
    }

    /// Writes numbers, little-endian bytes, of a token or an output to its rows, as this unit multiplies them: `[steps, count]` of the format,
    /// each what the ones before have left over, rounded to nearest even.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "other processors' units have no parts"))]
    pub(super) fn split<'a>(self, dtype: Dtype, bytes: &[u8], format: Dtype, count: usize, rows: impl Iterator<Item = &'a mut Row>) {
        match (self, format) {
            // SAFETY: an engine is only made with a unit that its processor has.
            #[cfg(target_arch = "x86_64")]
            (Self::Amx | Self::Avx512Bf16, _) => unsafe { avx512::split(dtype, bytes, count, rows) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Dtype::F32) => unsafe { avx512::whole(dtype, bytes, rows) },
            (_, Dtype::F32) => portable::whole(dtype, bytes, rows, f32::to_bits),
            _ => portable::whole(dtype, bytes, rows, portable::rounded),
        }
    }

    /// Swaps rows and columns of a step of outputs: afterwards its rows are `[outputs / 16, words]`, or `[words, outputs / 16]` where a kernel
    /// reads all 32 outputs together.
    pub(super) fn transpose(self, step: &mut Step) {
        match self {
            // SAFETY: an engine is only made with a unit that its processor has.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => unsafe { avx512::transpose_step(step) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => step.0.as_chunks_mut().0.iter_mut().for_each(|tile| unsafe { avx512::transpose(tile) }),
            _ => step.0.as_chunks_mut().0.iter_mut().for_each(portable::transpose),
        }
    }
}
