//! Weights between the checkpoint's number format and the host's f64 matrices.

use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor};
use faer::{Mat, MatRef};
use rayon::prelude::*;

/// Columns that are filled side by side: what a line of a cache holds of a row.
const CACHE_LINE: usize = 16;

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
    rows_to_bytes(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] as f32, dtype, what)
}

/// Rows of numbers in a number format.
///
/// # Errors
/// If a number is beyond the format's range.
pub fn rows_to_bytes(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32 + Sync, dtype: Dtype, what: &str) -> Result<Vec<u8>> {
    let row_bytes = columns * dtype.size();
    let mut bytes = vec![0; rows * row_bytes];
    let fits = bytes.par_chunks_mut(row_bytes.max(1)).enumerate().map(|(i, out)| {
        let mut row = Vec::with_capacity(row_bytes);
        let mut finite = true;
        for j in 0..columns {
            let value = value(i, j);
            finite &= dtype.round(value).is_finite();
            dtype.push(value, &mut row);
        }
        out.copy_from_slice(&row);
        finite
    });
    if fits.all(|fits| fits) {
        return Ok(bytes);
    }
    Err(Error::NotFinite(format!("{what}: a new weight is beyond the range of {}", dtype.name())))
}

/// A vector as a matrix of one row.
pub fn row(values: &[f64]) -> Mat<f64> {
    Mat::from_fn(1, values.len(), |_, j| values[j])
}
