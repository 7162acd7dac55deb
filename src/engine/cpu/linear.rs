//! Matrix products and column norms over weights in their checkpoint format.

use super::product::product;
use crate::engine::ColumnNorms;
use crate::tensor::{Dtype, HostTensor, widen};
use faer::Accum;
use faer::mat::{MatMut, MatRef};
use faer::reborrow::ReborrowMut;
use rayon::prelude::*;
use std::ops::Range;

/// Weight rows widened at a time: more do not help.
const PANEL_ROWS: usize = 128;
/// Numbers widened at a time by each thread: 2 MiB of f32, the size of a core's L2 cache.
const PANEL_NUMBERS: usize = 1 << 19;
/// Narrower panels are used for small matrices so that every thread has work; below this the product itself slows down.
const MINIMUM_PANEL_ROWS: usize = 16;

/// Rows in panels of which every thread has several. Results must not depend on the number of threads, but the library may sum edges of its
/// tiles and narrow matrices in another order: panels are whole tiles, and the last takes the rest.
fn panels(rows: usize, most: usize) -> impl ParallelIterator<Item = Range<usize>> {
    let most = (most / MINIMUM_PANEL_ROWS * MINIMUM_PANEL_ROWS).clamp(MINIMUM_PANEL_ROWS, PANEL_ROWS);
    let panel = (rows / (4 * rayon::current_num_threads())).clamp(MINIMUM_PANEL_ROWS, most).next_multiple_of(MINIMUM_PANEL_ROWS);
    let count = (rows / panel).max(1);
    (0..count).into_par_iter().map(move |index| index * panel..if index + 1 == count { rows } else { (index + 1) * panel })
}

/// A pointer that threads may share because each writes its own columns.
#[derive(Clone, Copy)]
pub(super) struct SharedOutput(pub *mut f32);
// SAFETY: every user hands disjoint elements to each thread and outlives the parallel loop.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(super) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// `y [tokens, out]` is `x [tokens, in]` times `weight [out, in]` transposed, plus `bias [out]`.
pub fn linear(x: &[f32], weight: &HostTensor, bias: Option<&[f32]>, y: &mut [f32]) {
    let (inputs, outputs) = (weight.columns, weight.rows);
    let tokens = x.len() / inputs;
    assert!(x.len() == tokens * inputs && y.len() == tokens * outputs, "activations do not fit the matrix");
    let out = SharedOutput(y.as_mut_ptr());
    let x = MatRef::from_row_major_slice(x, tokens, inputs);
    panels(outputs, PANEL_NUMBERS / inputs).for_each_init(Vec::new, |scratch: &mut Vec<f32>, rows| {
        let bytes = &weight.bytes.as_ref()[rows.start * weight.row_bytes()..rows.end * weight.row_bytes()];
        let values = match bytemuck::try_cast_slice::<u8, f32>(bytes) {
            Ok(values) if weight.dtype == Dtype::F32 => values,
            _ => {
                scratch.resize(rows.len() * inputs, 0.0);
                widen(weight.dtype, bytes, scratch);
                scratch
            }
        };
        let w = MatRef::from_row_major_slice(values, rows.len(), inputs);
        // SAFETY: the columns `rows` of the row-major output belong to this panel alone; `y` outlives the loop.
        let mut y = unsafe { MatMut::from_raw_parts_mut(out.at(rows.start), tokens, rows.len(), outputs as isize, 1) };
        let accumulate = if let Some(bias) = bias {
            for token in 0..tokens {
                let row = y.rb_mut().row_mut(token).try_as_row_major_mut().expect("a row lies in one piece");
                row.as_slice_mut().copy_from_slice(&bias[rows.clone()]);
            }
            Accum::Add
        } else {
            Accum::Replace
        };
        product(y, accumulate, x, w.transpose(), 1.0);
    });
}

/// Squared and absolute column sums, in f64.
pub fn column_norms(matrix: &HostTensor) -> ColumnNorms {
    const COLUMNS: usize = 512;
    let parts: Vec<(Vec<f64>, Vec<f64>)> = (0..matrix.columns.div_ceil(COLUMNS))
        .into_par_iter()
        .map(|part| {
            let columns = part * COLUMNS..((part + 1) * COLUMNS).min(matrix.columns);
            let (mut square, mut absolute) = (vec![0.0f64; columns.len()], vec![0.0f64; columns.len()]);
            let mut values = vec![0.0f32; columns.len()];
            let size = matrix.dtype.size();
            for row in matrix.bytes.as_ref().chunks_exact(matrix.row_bytes()) {
                widen(matrix.dtype, &row[columns.start * size..columns.end * size], &mut values);
                for ((s, a), &value) in square.iter_mut().zip(&mut absolute).zip(&values) {
                    let value = f64::from(value);
                    *s += value * value;
                    *a += value.abs();
                }
            }
            (square, absolute)
        })
        .collect();
    let rows = matrix.rows as f64;
    ColumnNorms {
        square_sum: parts.iter().flat_map(|p| p.0.iter().map(|&v| v as f32)).collect(),
        absolute_mean: parts.iter().flat_map(|p| p.1.iter().map(|&v| (v / rows) as f32)).collect(),
    }
}
