//! The innermost loops: products of blocks, and of registers alone to find out what a core does at best.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::Parts;
use crate::engine::cpu::peak::multiply_adds;
use crate::tensor::Dtype;
use std::mem::MaybeUninit;

/// Rows of a tile, and numbers or pairs of numbers of a row.
pub const SIDE: usize = 16;

/// Inputs of a step: a row of a tile holds them.
pub const STEP: usize = 2 * SIDE;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Rows of pairs of bf16 numbers, the first in the lower half.
pub type Tile = [[u32; SIDE]; SIDE];

/// Two tiles: of 32 tokens, a row for each, or of 32 outputs, a row for each pair of inputs.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Pair(pub [Tile; 2]);

/// Sums of 32 tokens by 32 outputs: `[tokens / 16][outputs / 16]`, of which each has rows of tokens.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Sums([[[[f32; SIDE]; SIDE]; 2]; 2]);

impl Sums {
    /// Writes the first outputs of a token, all of `y`.
    pub fn write_row(&self, token: usize, y: &mut [MaybeUninit<f32>]) {
        for (y, half) in y.chunks_mut(SIDE).zip(&self.0[token / SIDE]) {
            y.iter_mut().zip(&half[token % SIDE]).for_each(|(y, &sum)| _ = y.write(sum));
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
    pub x: &'a [Pair],
}

/// What a processor multiplies bf16 numbers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// AMX: 16 by 16 sums of 32 products each an instruction.
    Matrix,
    /// AVX-512 BF16: 16 sums of two products each.
    Vector,
    /// f32, of which every bf16 number is one.
    None,
}

impl Unit {
    /// Whether this processor has it, and the system lets it be used.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Matrix => amx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Vector => avx512::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Matrix | Self::Vector => false,
            Self::None => true,
        }
    }

    /// Those of this processor, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Matrix, Self::Vector, Self::None].into_iter().filter(|unit| unit.is_available())
    }

    /// The fastest of this processor.
    #[must_use]
    pub fn fastest() -> Self {
        Self::available().next().expect("the last is always there")
    }

    /// `sums += x w`, for blocks of tokens: `x [blocks, steps, parts]`, `w [steps, parts]`. Pairs of parts whose places add up to as many
    /// as the activations have are left out: their products are below 2^-24 of those of the first. What comes next may be fetched
    /// meanwhile.
    pub(super) fn add_products(self, parts: Parts, sums: &mut [Sums], x: &[Pair], w: &[Pair], next: Ahead<'_>) {
        match self {
            // SAFETY: an engine is only made with a unit that its processor has.
            #[cfg(target_arch = "x86_64")]
            Self::Matrix => unsafe { amx::add_products(parts, sums, x, w, next) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vector => unsafe { avx512::add_products(parts, sums, x, w, next) },
            _ => portable::add_products(parts, sums, x, w, next),
        }
    }

    /// Runs `rounds` rounds of products in registers on this thread and returns the number of multiply-adds done; they are of f32 without
    /// a unit.
    pub(in crate::engine::cpu) fn in_registers(self, rounds: u64) -> u64 {
        match self {
            // SAFETY: the arithmetic has made sure that the processor has the unit.
            #[cfg(target_arch = "x86_64")]
            Self::Matrix => unsafe { amx::in_registers(rounds) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vector => unsafe { avx512::in_registers(rounds) },
            _ => multiply_adds(rounds),
        }
    }

    /// Writes one row of `[steps, parts]`: numbers in little-endian bytes, each part what the ones before have left over, rounded to bf16.
    pub(super) fn split(self, dtype: Dtype, bytes: &[u8], parts: usize, row: usize, packed: &mut [Pair]) {
        match self {
            // SAFETY: an engine is only made with a unit that its processor has.
            #[cfg(target_arch = "x86_64")]
            Self::Matrix | Self::Vector => unsafe { avx512::split(dtype, bytes, parts, row, packed) },
            _ => portable::split(dtype, bytes, parts, row, packed),
        }
    }

    /// Swaps rows and columns.
    pub(super) fn transpose(self, tile: &mut Tile) {
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Matrix | Self::Vector => unsafe { avx512::transpose(tile) },
            _ => portable::transpose(tile),
        }
    }
}
