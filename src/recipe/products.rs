//! Products of matrices on all threads, in blocks that do not depend on their number.

use faer::linalg::matmul::matmul;
use faer::traits::RealField;
use faer::{Accum, ColMut, ColRef, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// A number of the host's matrices: f32 or f64.
pub trait Number: RealField + Copy + Into<f64> {
    /// The nearest one.
    fn of(value: f64) -> Self;
}

impl Number for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Number for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// In another number format.
pub fn cast<From: Number, To: Number>(matrix: MatRef<'_, From>) -> Mat<To> {
    let mut cast = Mat::zeros(matrix.nrows(), matrix.ncols());
    cast.par_col_iter_mut().zip(matrix.par_col_iter()).for_each(|(to, from)| {
        to.iter_mut().zip(from.iter()).for_each(|(to, &from)| *to = To::of(from.into()));
    });
    cast
}

/// Rows and columns of a block: what the library packs of one stays in a cache. Whole tiles of it have 12 to 96 rows.
const BLOCK: [usize; 2] = [480, 256];

/// All threads.
pub fn parallel() -> Par {
    Par::rayon(0)
}

/// `sum += factor left right`, fastest where what is summed over lies in one piece, above all in the columns of `right`: the library was seen
/// to take twice as long if their numbers lie a power of two apart.
pub fn add_product<T: Number>(sum: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>, factor: T) {
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
pub fn select_columns<T: Number>(matrix: MatRef<'_, T>, columns: &[usize]) -> Mat<T> {
    let mut chosen = Mat::zeros(matrix.nrows(), columns.len());
    chosen.par_col_iter_mut().zip(columns.par_iter()).for_each(|(mut out, &column)| out.copy_from(matrix.col(column)));
    chosen
}

/// Rows and columns change places.
pub fn transposed<T: Number>(matrix: MatRef<'_, T>) -> Mat<T> {
    /// Rows read side by side: more than a cache line holds of a column.
    const ROWS: usize = 32;
    let mut transposed = Mat::zeros(matrix.ncols(), matrix.nrows());
    transposed
        .par_col_chunks_mut(ROWS)
        .zip(matrix.par_row_chunks(ROWS))
        .for_each(|(mut columns, rows)| columns.copy_from(rows.transpose()));
    transposed
}
