//! Products of matrices in f64 on all threads, in blocks that do not depend on their number.

use faer::linalg::matmul::matmul;
use faer::{Accum, ColMut, ColRef, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Rows and columns of a block: what the library packs of one stays in a cache. Whole tiles of it have 12, 24 or 48 rows.
const BLOCK: [usize; 2] = [480, 256];

/// All threads.
pub fn parallel() -> Par {
    Par::rayon(0)
}

/// `sum += factor left right`, fastest where what is summed over lies in one piece, above all in the columns of `right`: the library was seen
/// to take twice as long if their numbers lie a power of two apart.
pub fn add_product(sum: MatMut<'_, f64>, left: MatRef<'_, f64>, right: MatRef<'_, f64>, factor: f64) {
    let [rows, columns] = BLOCK;
    sum.par_col_chunks_mut(columns).zip(right.par_col_chunks(columns)).for_each(|(sum, right)| {
        sum.par_row_chunks_mut(rows)
            .zip(left.par_row_chunks(rows))
            .for_each(|(sum, left)| matmul(sum, Accum::Add, left, right, factor, Par::Seq));
    });
}

/// `left right`.
pub fn product(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    add_product(product.as_mut(), left, right, 1.0);
    product
}

/// `matrix vector`, on one thread: several would share its sums out by their number.
pub fn times_vector(matrix: MatRef<'_, f64>, vector: &[f64]) -> Vec<f64> {
    let mut result = vec![0.0; matrix.nrows()];
    matmul(ColMut::from_slice_mut(&mut result), Accum::Replace, matrix, ColRef::from_slice(vector), 1.0, Par::Seq);
    result
}

/// Some columns of a matrix.
pub fn select_columns(matrix: MatRef<'_, f64>, columns: &[usize]) -> Mat<f64> {
    let mut chosen = Mat::zeros(matrix.nrows(), columns.len());
    chosen.par_col_iter_mut().zip(columns.par_iter()).for_each(|(mut out, &column)| out.copy_from(matrix.col(column)));
    chosen
}

/// Rows and columns change places.
pub fn transposed(matrix: MatRef<'_, f64>) -> Mat<f64> {
    /// Rows read side by side: more than a cache line holds of a column.
    const ROWS: usize = 32;
    let mut transposed = Mat::zeros(matrix.ncols(), matrix.nrows());
    transposed
        .par_col_chunks_mut(ROWS)
        .zip(matrix.par_row_chunks(ROWS))
        .for_each(|(mut columns, rows)| columns.copy_from(rows.transpose()));
    transposed
}
