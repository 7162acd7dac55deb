//! Sums of products of activations over tokens: Gram matrices and cross moments.

use super::linear::SharedOutput;
use super::product::product;
use faer::Accum;
use faer::mat::{MatMut, MatRef};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of the sum that are added to together, and columns at a time: what the library packs of them stays in a cache. Blocks depend on the
/// shape alone, as the library may sum edges of its tiles in another order and results must not depend on the number of threads.
const ROWS: usize = 256;
const COLUMNS: usize = 960;
/// Fewer rows for small sums, so that every thread has work.
const LEAST_ROWS: usize = 32;

/// `sum [columns, width] += a[:, columns]^T b[:, ..width]` for row-major `a [tokens, a_columns]` and `b [tokens, b_columns]`; where
/// `symmetric`, the columns of a block of rows behind its diagonal are left out.
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
    let block = (columns.len() / 8).next_multiple_of(LEAST_ROWS).clamp(LEAST_ROWS, ROWS);
    // The largest blocks of a triangle first, so that no thread is left with one at the end.
    (0..columns.len().div_ceil(block)).into_par_iter().rev().with_max_len(1).for_each_init(Vec::new, |transposed: &mut Vec<f32>, index| {
        let rows = index * block..((index + 1) * block).min(columns.len());
        let reach = if symmetric { (columns.start + rows.end).min(width) } else { width };
        // The library reads columns a quarter slower than rows.
        transpose(a, a_columns, columns.start + rows.start..columns.start + rows.end, transposed);
        let a = MatRef::from_row_major_slice(transposed, rows.len(), tokens);
        (0..reach.div_ceil(COLUMNS)).into_par_iter().for_each(|index| {
            let across = index * COLUMNS..((index + 1) * COLUMNS).min(reach);
            // SAFETY: this block of the row-major sum belongs to this task alone, and lies within it; `sum` outlives the loop.
            let sum = unsafe {
                MatMut::from_raw_parts_mut(out.at(rows.start * width + across.start), rows.len(), across.len(), width as isize, 1)
            };
            product(sum, Accum::Add, a, b.subcols(across.start, across.len()), 1.0);
        });
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
