//! The arithmetic of matrix products, as `--precision` and the processor have it.

use super::buffers::Buffers;
use super::linear;
use super::packed::{self, PackedMatrix, Parts, Unit};
use super::peak::multiply_adds;
use crate::tensor::Dtype;

/// Fewer tokens than this go to the matrix library: packing the weights would take longer than the product (seen with one token).
const FEW_TOKENS: usize = 8;

/// How activations are multiplied with weights. All sum in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32, by the matrix library.
    Library,
    /// f32, on a unit that multiplies it, or each number as the sum of bf16 numbers.
    F32(Unit),
    /// Rounded to bf16.
    Bf16(Unit),
}

impl Arithmetic {
    /// The fastest of f32 on this processor: parts pay on matrix units only.
    #[must_use]
    pub fn fastest_f32() -> Self {
        let pays = |unit: &Unit| matches!(unit, Unit::Amx | Unit::Avx512 | Unit::Avx2);
        Unit::available().find(pays).map_or(Self::Library, Self::F32)
    }

    /// Products of the processor's that stand for one of an activation and a weight.
    pub(super) fn products_of_one(self, weight: Dtype) -> usize {
        match self {
            Self::Library => 1,
            Self::F32(unit) => Parts::of_f32(unit, weight).products(),
            Self::Bf16(_) => Parts::BF16.products(),
        }
    }

    /// Whether this processor has what it takes.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Library => true,
            Self::F32(unit) | Self::Bf16(unit) => unit.is_available(),
        }
    }

    /// Runs `rounds` rounds of the processor's products in registers on this thread and returns the number of multiply-adds done.
    pub(super) fn in_registers(self, rounds: u64) -> u64 {
        match self {
            Self::Library => multiply_adds(rounds),
            Self::F32(unit) | Self::Bf16(unit) => unit.in_registers(rounds),
        }
    }

    /// `y [tokens, out]` is `x [tokens, in]` times `weight [out, in]` transposed, plus `bias [out]`.
    pub(super) fn linear(self, x: &[f32], weight: &PackedMatrix, bias: Option<&[f32]>, buffers: &Buffers, y: &mut [f32]) {
        match self {
            Self::F32(unit) if x.len() >= FEW_TOKENS * weight.tensor.columns => {
                packed::linear(unit, Parts::of_f32(unit, weight.tensor.dtype), x, weight, bias, buffers, y);
            }
            Self::Library | Self::F32(_) => linear::linear(x, &weight.tensor, bias, y),
            Self::Bf16(unit) => packed::linear(unit, Parts::BF16, x, weight, bias, buffers, y),
        }
    }
}
