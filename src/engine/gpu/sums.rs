//! Sums over tokens of products of channels, and over the rows of a weight.

use super::context::Job;
use super::{GpuEngine, Kernel, Matrix, Tensor, words};
use crate::engine::{ColumnNorms, Engine};
use crate::error::Result;
use std::ops::Range;

/// Sizes of tiles, as the kernels have them.
const CROSS_TILE: usize = 128;
const CROSS_COLUMN_WIDTH: usize = 16;
const NORM_COLUMNS: usize = 32;
/// How many multiply-adds of a product in narrow tiles take the time of one of a sum in wide tiles that registers do not hold, at most.
const SLOWNESS: u64 = 4;

impl GpuEngine {
    /// See [`crate::engine::Engine::add_cross`].
    pub(super) fn add_sums_of_products(
        &self,
        sum: &mut Tensor,
        a: &Tensor,
        columns: Range<usize>,
        b: &Tensor,
        symmetric: bool,
    ) -> Result<()> {
        assert!(a.rows == b.rows && columns.end <= a.columns, "factors do not fit each other");
        assert!(sum.rows == columns.len() && sum.columns <= b.columns, "the sum does not fit its factors");
        if columns.len() == 1 {
            let params = words([a.rows, a.columns, columns.start, b.columns, sum.columns]);
            let (width, buffers) = (sum.columns, [(1, a.buffer()), (2, b.buffer()), (3, sum.changed())]);
            return self.over(Kernel::CrossColumn, &params, &buffers, width, CROSS_COLUMN_WIDTH);
        }
        let aligned = [a.columns, columns.start, columns.len(), b.columns, sum.columns].iter().all(|n| n.is_multiple_of(4));
        let constants = [("ALIGNED", u32::from(aligned)), self.form.looped()];
        let params = words([a.rows, a.columns, columns.start, columns.len(), b.columns, sum.columns, usize::from(symmetric)]);
        let [width, rows] = words([sum.columns.div_ceil(CROSS_TILE), columns.len().div_ceil(CROSS_TILE)]);
        // Where the wide tile of products does not suit the registers, this one does not either.
        let slowness = if self.form.wide { 1 } else { SLOWNESS };
        let row_work = slowness * (CROSS_TILE * sum.columns * a.rows) as u64;
        let operation = || format!("[{}, {}] by [{}, {}]", a.rows, columns.len(), b.rows, b.columns);
        let buffers = [(1, a.buffer()), (2, b.buffer()), (3, sum.changed())];
        let job = Job { kernel: Kernel::Cross, constants: &constants, params: &params, buffers: &buffers, workgroups: [width, rows, 1] };
        self.context.dispatch_rows(&job, row_work, operation)
    }

    /// See [`crate::engine::Engine::column_norms`].
    pub(super) fn norms_of_columns(&self, matrix: &Matrix) -> Result<ColumnNorms> {
        let norms = self.tensor(matrix.columns, 2)?;
        self.context.clear(norms.buffer())?;
        for &(_, rows, ref panel) in &matrix.panels {
            let params = words([rows, matrix.columns]);
            let [groups, tile] = words([matrix.columns.div_ceil(NORM_COLUMNS), matrix.tile.unwrap_or(1)]);
            let buffers = [(1, panel), (2, norms.buffer())];
            let constants = [matrix.format(), ("TILE", tile)];
            let job =
                Job { kernel: Kernel::ColumnNorms, constants: &constants, params: &params, buffers: &buffers, workgroups: [groups, 1, 1] };
            self.context.dispatch(&job, 0, || format!("[{rows}, {}] {:?}", matrix.columns, matrix.dtype))?;
        }
        let norms = self.download(&norms)?;
        Ok(ColumnNorms {
            square_sum: norms.chunks_exact(2).map(|n| n[0]).collect(),
            absolute_mean: norms.chunks_exact(2).map(|n| n[1] / matrix.rows as f32).collect(),
        })
    }
}
