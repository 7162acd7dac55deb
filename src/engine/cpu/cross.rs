//! Sums of products of activations over tokens: Gram matrices and cross moments.

use super::linear::SharedOutput;
use super::product::product;
use faer::Accum;
use faer::mat::{MatMut, MatRef};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of the sum that one task computes.
const PANEL_ROWS: usize = 128;

/// `sum [columns, width] += a[:, columns]^T b[:, ..width]` for row-major `a [tokens, a_columns]` and `b [tokens, b_columns]`; where
/// `symmetric`, the columns of a panel behind its diagonal are left out.
pub fn add_cross(
    sum: &mut [f32],
    width: usize,
    (a, a_columns): (&[f32], usize),
    columns: Range<usize>,
    (b, b_columns): (&[f32], usize),
    symmetric: bool,
) {
    let tokens = a.len() / a_columns;
    let a = MatRef::from_row_major_slice(a, tokens, a_columns);
    let b = MatRef::from_row_major_slice(b, tokens, b_columns);
    let out = SharedOutput(sum.as_mut_ptr());
    let panel = (columns.len() / (4 * rayon::current_num_threads())).clamp(16, PANEL_ROWS);
    // The largest panels of a triangle first, so that no thread is left with one at the end.
    (0..columns.len().div_ceil(panel)).into_par_iter().rev().for_each(|index| {
        let rows = index * panel..((index + 1) * panel).min(columns.len());
        let reach = if symmetric { (columns.start + rows.end).min(width) } else { width };
        // SAFETY: the rows `rows` of the row-major sum belong to this task alone; `sum` outlives the loop.
        let sum = unsafe { MatMut::from_raw_parts_mut(out.at(rows.start * width), rows.len(), reach, width as isize, 1) };
        let a = a.subcols(columns.start + rows.start, rows.len()).transpose();
        product(sum, Accum::Add, a, b.subcols(0, reach), 1.0);
    });
}
