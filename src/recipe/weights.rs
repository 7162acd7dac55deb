//! Weights between the checkpoint's number format and the host's f64 matrices.

use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor, narrow};
use faer::{Mat, MatRef};
use rayon::prelude::*;

/// Columns that are filled side by side: what a line of a cache holds of a row in f32. And rows that are read side by side: what it holds of
/// a column in f64.
const CACHE_LINE: usize = 16;
const COLUMN_LINE: usize = 8;

/// A tensor as a matrix.
pub fn to_matrix(tensor: &HostTensor) -> Mat<f64> {
    let values = tensor.to_f32();
    let mut matrix = Mat::zeros(tensor.rows, tensor.columns);
    matrix.par_col_chunks_mut(CACHE_LINE).enumerate().for_each(|(index, mut columns)| {
        for (i, row) in values.chunks_exact(tensor.columns).enumerate() {
            let row = &row[index * CACHE_LINE..];
            (0..columns.ncols()).for_each(|j| columns[(i, j)] = f64::from(row[j]));
        }
    });
    matrix
}

/// A matrix in a number format, row by row.
///
/// # Errors
/// If a number is beyond the format's range.
pub fn to_bytes(matrix: MatRef<'_, f64>, dtype: Dtype, what: &str) -> Result<Vec<u8>> {
    let (rows, columns) = matrix.shape();
    let row_bytes = columns * dtype.size();
    let mut bytes = vec![0; rows * row_bytes];
    let fits = bytes.par_chunks_mut((COLUMN_LINE * row_bytes).max(1)).enumerate().map(|(index, out)| {
        let rows = matrix.subrows(index * COLUMN_LINE, out.len() / row_bytes);
        let mut values = vec![0.0; rows.nrows() * columns];
        for j in 0..columns {
            (0..rows.nrows()).for_each(|i| values[i * columns + j] = rows[(i, j)] as f32);
        }
        narrow(dtype, &values, out)
    });
    if fits.all(|fits| fits) { Ok(bytes) } else { Err(out_of_range(dtype, what)) }
}

/// A new weight that a number format cannot hold.
pub fn out_of_range(dtype: Dtype, what: &str) -> Error {
    Error::NotFinite(format!(
        "{what}: a new weight is beyond the range of {}; prune a copy of the model in bf16 or f32, or give --recipe flap",
        dtype.name()
    ))
}

/// A vector as a matrix of one row.
pub fn row(values: &[f64]) -> Mat<f64> {
    Mat::from_fn(1, values.len(), |_, j| values[j])
}
