//! The arithmetic of matrix products, as `--precision` and the processor have it.

use super::bf16::{self, Unit};
use super::linear;
use crate::engine::{Dtype, HostTensor};

/// How activations are multiplied with weights. All sum in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32, by the matrix library.
    F32,
    /// f32, each number as the sum of bf16 numbers.
    F32InParts(Unit),
    /// Rounded to bf16.
    Bf16(Unit),
}

impl Arithmetic {
    /// The fastest of f32 on this processor: parts pay on matrix units only.
    #[must_use]
    pub fn fastest_f32() -> Self {
        match Unit::fastest() {
            Unit::Matrix => Self::F32InParts(Unit::Matrix),
            Unit::Vector | Unit::None => Self::F32,
        }
    }

    /// Products of the processor's that stand for one of an activation and a weight.
    #[must_use]
    pub fn products_of_one(self, weight: Dtype) -> usize {
        match self {
            Self::F32 | Self::Bf16(_) => 1,
            Self::F32InParts(_) => bf16::products_of_parts(weight),
        }
    }

    /// Whether this processor has what it takes.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::F32 => true,
            Self::F32InParts(unit) | Self::Bf16(unit) => unit.is_available(),
        }
    }

    /// `x [tokens, in]` times `weight [out, in]` transposed, plus `bias [out]`.
    pub(super) fn linear(self, x: &[f32], weight: &HostTensor, bias: Option<&[f32]>) -> Vec<f32> {
        match self {
            Self::F32 => linear::linear(x, weight, bias),
            Self::F32InParts(unit) => bf16::linear_in_parts(unit, x, weight, bias),
            Self::Bf16(unit) => bf16::linear_rounded(unit, x, weight, bias),
        }
    }
}
