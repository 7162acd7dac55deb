//! Sums of products of activations over tokens: Gram matrices and cross moments.

use super::linear::{SharedOutput, panels};
use super::product::product;
use faer::Accum;
use faer::mat::{MatMut, MatRef};
use rayon::prelude::*;
use std::ops::Range;

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
    assert_eq!(sum.len(), columns.len() * width, "the sum does not have these rows");
    let tokens = a.len() / a_columns;
    let b = MatRef::from_row_major_slice(b, tokens, b_columns);
    let out = SharedOutput(sum.as_mut_ptr());
    // The largest panels of a triangle first, so that no thread is left with one at the end.
    panels(columns.len(), usize::MAX).rev().for_each_init(Vec::new, |transposed: &mut Vec<f32>, rows| {
        let reach = if symmetric { (columns.start + rows.end).min(width) } else { width };
        // SAFETY: the rows `rows` of the row-major sum belong to this task alone, and lie within it; `sum` outlives the loop.
        let sum = unsafe { MatMut::from_raw_parts_mut(out.at(rows.start * width), rows.len(), reach, width as isize, 1) };
        // The library reads columns a quarter slower than rows.
        transpose(a, a_columns, columns.start + rows.start..columns.start + rows.end, transposed);
        let a = MatRef::from_row_major_slice(transposed, rows.len(), tokens);
        product(sum, Accum::Add, a, b.subcols(0, reach), 1.0);
    });
}

/// Some columns of row-major `a` as rows.
fn transpose(a: &[f32], a_columns: usize, columns: Range<usize>, transposed: &mut Vec<f32>) {
    /// Tokens that are transposed together: a cache line of each row.
    const TOKENS: usize = 16;
    let tokens = a.len() / a_columns;
    transposed.resize(columns.len() * tokens, 0.0);
    for first in (0..tokens).step_by(TOKENS) {
        let block = first..(first + TOKENS).min(tokens);
        for (row, column) in transposed.chunks_exact_mut(tokens).zip(columns.clone()) {
            row[block.clone()].iter_mut().zip(block.clone()).for_each(|(to, token)| *to = a[token * a_columns + column]);
        }
    }
}
