//! Operands as matrix units take them: f16 numbers in tiles, which lie in memory as a workgroup stages them (`shaders/shared/tiles.wgsl`).

use super::context::{Job, fold};
use super::pool::Buffer;
use super::tensor::{F16Copy, F16Layout};
use super::{GpuEngine, Kernel, Matrix, Products, THREADS, Tensor, words};
use crate::error::Result;
use crate::tensor::{Dtype, HostTensor};

/// Inputs of a tile.
const DEPTH: usize = 32;
/// Numbers of a unit, and its bytes.
pub(super) const UNIT: usize = 8;
const UNIT_BYTES: u64 = 16;
/// Rows of activations that share a scale.
pub(super) const SCALED_ROWS: usize = 16;
/// Bytes of rows that are on the device at a time before they lie in tiles.
pub(super) const ROWS_AT_A_TIME: usize = 32 << 20;

/// Lines of a tile on matrix units of `side` x `side`.
pub(super) const fn tile_lines(side: usize) -> usize {
    8 * side
}

/// Units of a tile of so many lines.
pub(super) const fn tile_units(lines: usize) -> usize {
    lines * DEPTH / UNIT
}

/// Units of so many lines of `columns` numbers, in whole tiles.
fn units(lines: usize, columns: usize, tile: usize) -> usize {
    lines.next_multiple_of(tile) * columns.next_multiple_of(DEPTH) / UNIT
}

/// Bytes of so many units, and of one more tile: a product reads a tile ahead, and so behind its operands, without asking where they end.
fn bytes(units: usize, tile: usize) -> u64 {
    (units + tile_units(tile)) as u64 * UNIT_BYTES
}

impl GpuEngine {
    /// The matrix as the engine's products want it: f16 for f16 products, unless its numbers are out of range; and for matrix units in tiles.
    pub(super) fn upload_for_products(&self, matrix: &HostTensor) -> Result<Matrix> {
        let prepared = self.prepare(matrix);
        match self.products {
            Products::Cooperative { side, .. } if prepared.dtype == Dtype::F16 => self.upload_tiles(&prepared, tile_lines(side)),
            _ => self.upload_rows(&prepared),
        }
    }

    /// The matrix as it is, row by row.
    pub(super) fn upload_rows(&self, matrix: &HostTensor) -> Result<Matrix> {
        let panel_rows = (self.info.max_binding_bytes as usize / matrix.row_bytes()).clamp(1, matrix.rows);
        let upload = |first: usize, rows: usize| self.context.upload(matrix.row_panel(first..first + rows).bytes.as_ref());
        Matrix::in_panels(matrix, panel_rows, None, upload)
    }

    /// An f16 matrix in tiles.
    fn upload_tiles(&self, matrix: &HostTensor, tile: usize) -> Result<Matrix> {
        let tile_row_bytes = units(tile, matrix.columns, tile) as u64 * UNIT_BYTES;
        let panel_rows = (self.info.max_binding_bytes.saturating_sub(bytes(0, tile)) / tile_row_bytes).max(1) as usize * tile;
        Matrix::in_panels(matrix, panel_rows, Some(tile), |first, rows| {
            let tiles = self.context.buffer(bytes(units(rows, matrix.columns, tile), tile))?;
            let step = (ROWS_AT_A_TIME / matrix.row_bytes() / tile).max(1) * tile;
            for done in (0..rows).step_by(step) {
                let piece = matrix.row_panel(first + done..first + rows.min(done + step));
                self.tile(&piece, tile, &tiles, units(done, matrix.columns, tile))?;
            }
            Ok(tiles)
        })
    }

    /// Brings f16 rows to the device, and from there into tiles, of which the first begins at `first_unit`.
    fn tile(&self, rows: &HostTensor, tile: usize, tiles: &Buffer, first_unit: usize) -> Result<()> {
        let uploaded = self.context.upload(rows.bytes.as_ref())?;
        let count = units(rows.rows, rows.columns, tile);
        let params = words([rows.rows, rows.columns, rows.columns.div_ceil(DEPTH), count, first_unit]);
        self.to_tiles(Kernel::WeightTiles, &[("TILE", tile as u32)], &params, &[(1, &uploaded), (2, tiles)], count.div_ceil(THREADS))
    }

    /// Activations in tiles of f16.
    pub(super) fn activation_tiles(&self, x: &Tensor, tile: usize, layout: F16Layout) -> Result<F16Copy> {
        let lines = x.rows.next_multiple_of(tile);
        let numbers = self.context.buffer(bytes(units(lines, x.columns, tile), tile))?;
        let scales = self.context.buffer(4 * x.rows.div_ceil(SCALED_ROWS) as u64)?;
        let params = words([x.rows, x.columns, x.columns.div_ceil(DEPTH)]);
        let buffers = [(1, x.buffer()), (2, &numbers), (3, &scales)];
        let (paired, aligned) = (layout == F16Layout::PairedTiles, x.columns.is_multiple_of(4));
        let constants = [("TILE", tile as u32), ("PAIRED", paired.into()), ("ALIGNED", aligned.into())];
        self.to_tiles(Kernel::ActivationTiles, &constants, &params, &buffers, lines / SCALED_ROWS)?;
        Ok(F16Copy { layout, numbers, scales })
    }

    fn to_tiles(
        &self,
        kernel: Kernel,
        constants: &[(&'static str, u32)],
        params: &[u32],
        buffers: &[(u32, &Buffer)],
        workgroups: usize,
    ) -> Result<()> {
        let job = Job { kernel, constants, params, buffers, workgroups: fold(workgroups) };
        self.context.dispatch(&job, 0, || format!("{workgroups} workgroups"))
    }
}
