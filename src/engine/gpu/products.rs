//! Matrix products in three tiers: f32 tiles, which every adapter runs; f16 tiles; and matrix units (cooperative matrices). All sum
//! in f32. The table of cases in `tests/suite/kernels/cases.rs` runs through every tier that an adapter has.

use super::context::{Job, most_staged};
use super::tensor::{F16Copy, F16Layout};
use super::tiles::{ROWS_AT_A_TIME, tile_units};
use super::{GpuEngine, Kernel, Matrix, Tensor, words};
use crate::engine::Precision;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor, narrow};
use rayon::prelude::*;

/// Below these sizes the narrow tile wastes less.
const WIDE_TOKENS: usize = 64;
const WIDE_OUTPUTS: usize = 64;
const NARROW_TILE: usize = 64;
const WIDE_TILE: usize = 128;
/// Subgroups of a workgroup on matrix units.
pub(super) const SUBGROUPS: u32 = 4;

/// How an engine multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// f32 operands.
    F32,
    /// f16 operands, where the weights allow it.
    F16,
    /// f16 operands on matrix units of `side` x `side`, where the weights allow it.
    Cooperative {
        /// 8 or 16.
        side: usize,
        /// Threads of a subgroup, which must be the same for every kernel.
        subgroup_size: u32,
    },
}

impl Products {
    /// Bytes that weights on their way take at most beside their buffers: in the machine's memory, or where all of the device's can be
    /// written to, there; and rows that do not lie in tiles yet.
    pub(super) fn staging_bytes(self, memory_budget: u64) -> u64 {
        most_staged(memory_budget) + if matches!(self, Self::Cooperative { .. }) { ROWS_AT_A_TIME as u64 } else { 0 }
    }

    /// What `precision` means on an adapter, in the order to be tried: its subgroups may have several sizes. `matrix_units` are its
    /// sizes of f16 by f16 to f32 with the sizes of subgroups that may share one.
    pub fn choose(
        precision: Precision,
        real_gpu: bool,
        shader_f16: bool,
        matrix_units: &[(usize, u32)],
        adapter: &str,
    ) -> Result<Vec<Self>> {
        // Larger matrices keep more of a GPU's matrix units busy.
        let largest = matrix_units.iter().map(|unit| unit.0).max();
        let units = matrix_units.iter().filter(|unit| Some(unit.0) == largest);
        let units: Vec<Self> = units.map(|&(side, subgroup_size)| Self::Cooperative { side, subgroup_size }).collect();
        match precision {
            Precision::Bf16 => Err(Error::Unsupported("bf16 products are made on the CPU; use --device cpu, or --precision f16".into())),
            Precision::Auto if real_gpu && !units.is_empty() => Ok(units),
            Precision::F32 | Precision::Auto => Ok(vec![Self::F32]),
            Precision::F16 if !units.is_empty() => Ok(units),
            Precision::F16 if shader_f16 => Ok(vec![Self::F16]),
            Precision::F16 => Err(Error::Unsupported(format!("{adapter} computes no f16 in shaders; use --precision f32 or auto"))),
        }
    }
}

/// Every number rounded to f16, or `None` if one of them is beyond its range. Numbers too small for f16 become zero or lose digits,
/// an error of at most 3e-8, or of 6.1e-5 where a GPU takes f16's smallest numbers for zero.
fn weight_to_f16(matrix: &HostTensor) -> Option<HostTensor> {
    if matrix.dtype == Dtype::F16 {
        return Some(matrix.clone());
    }
    let mut bytes = vec![0u8; 2 * matrix.rows * matrix.columns];
    let fits = bytes
        .par_chunks_mut(2 * matrix.columns)
        .enumerate()
        .all(|(row, out)| narrow(Dtype::F16, &matrix.row_panel(row..row + 1).to_f32(), out));
    fits.then(|| HostTensor::owning(bytes, Dtype::F16, matrix.rows, matrix.columns))
}

impl GpuEngine {
    /// The matrix in f16 for f16 products, unless its numbers are out of range.
    pub(super) fn prepare(&self, matrix: &HostTensor) -> HostTensor {
        if self.products == Products::F32 {
            return matrix.clone();
        }
        weight_to_f16(matrix).unwrap_or_else(|| matrix.clone())
    }

    /// Queues the products of `x` with every panel of `weight`.
    pub(super) fn multiply(&self, x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
        assert_eq!(x.columns, weight.columns, "activations do not fit the matrix");
        assert!(bias.is_none_or(|bias| bias.count() == weight.rows), "the bias does not fit the matrix");
        let y = self.tensor(x.rows, weight.rows)?;
        for &(first, rows, ref panel) in &weight.panels {
            let params = words([x.rows, weight.columns, rows, first, weight.rows, usize::from(bias.is_some())]);
            let (kernel, tile) = self.kernel(x.rows, rows, weight);
            let constants = match self.products {
                Products::Cooperative { subgroup_size, .. } if weight.tile.is_some() => {
                    let threads = SUBGROUPS * subgroup_size;
                    vec![("SUBGROUP_SIZE", subgroup_size), ("THREADS", threads), ("STEPS", tile_units(tile) as u32 / threads)]
                }
                _ if tile == WIDE_TILE => vec![weight.format(), self.form.looped()],
                _ => vec![weight.format()],
            };
            let mut buffers = vec![(1, panel), (3, bias.map_or(&self.unused, Tensor::buffer)), (4, y.buffer())];
            let in_f16 = match (weight.tile, kernel) {
                (Some(tile), _) => Some(x.in_f16(F16Layout::PairedTiles, |layout| self.activation_tiles(x, tile, layout))?),
                (None, Kernel::MatmulWideF16) => Some(x.in_f16(F16Layout::Rows, |layout| self.to_f16(x, layout))?),
                _ => None,
            };
            match &in_f16 {
                Some(in_f16) => buffers.extend([(2, &in_f16.numbers), (5, &in_f16.scales)]),
                None => buffers.push((2, x.buffer())),
            }
            let [x_groups, y_groups] = words([rows.div_ceil(tile), x.rows.div_ceil(tile)]);
            let job = Job { kernel, constants: &constants, params: &params, buffers: &buffers, workgroups: [x_groups, y_groups, 1] };
            let row_work = (tile * rows * weight.columns) as u64;
            let operation = || format!("[{}, {}] by [{rows}, {}] {:?}", x.rows, x.columns, weight.columns, weight.dtype);
            self.context.dispatch_rows(&job, row_work, operation)?;
        }
        Ok(y)
    }

    /// The activations in f16; the number of columns is a multiple of 4.
    fn to_f16(&self, x: &Tensor, layout: F16Layout) -> Result<F16Copy> {
        let (numbers, scales) = (self.context.buffer(2 * x.count() as u64)?, self.context.buffer(4 * x.rows as u64)?);
        let buffers = [(1, x.buffer()), (2, &numbers), (3, &scales)];
        self.over(Kernel::ToF16, &words([x.rows, x.columns / 4]), &buffers, x.rows, 1)?;
        Ok(F16Copy { layout, numbers, scales })
    }

    /// The kernel for a product of so many tokens with rows of a weight, and the side of its tile.
    fn kernel(&self, tokens: usize, rows: usize, weight: &Matrix) -> (Kernel, usize) {
        let fits = self.form.wide && weight.rows >= WIDE_OUTPUTS && weight.columns.is_multiple_of(4);
        let wide = fits && tokens >= WIDE_TOKENS && rows >= WIDE_OUTPUTS;
        match (self.products, weight.tile) {
            (Products::Cooperative { side: 16, .. }, Some(tile)) => {
                let whole = tokens.is_multiple_of(16) && weight.rows.is_multiple_of(16);
                (if whole { Kernel::MatmulCooperative16 } else { Kernel::MatmulCooperative16Any }, tile)
            }
            (_, Some(tile)) => (Kernel::MatmulCooperative8, tile),
            // For any number of tokens: the narrow tile does not round them to f16.
            (Products::F16, None) if weight.dtype == Dtype::F16 && fits => (Kernel::MatmulWideF16, WIDE_TILE),
            _ if wide => (Kernel::MatmulWideF32, WIDE_TILE),
            _ => (Kernel::Matmul, NARROW_TILE),
        }
    }
}
