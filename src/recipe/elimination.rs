//! The dense linear algebra of the recipes as one interface: the inverse of a covariance, and the removal of channels from it.

use crate::error::Result;
use faer::Mat;

/// A symmetric positive definite matrix of channels with rows `[outputs, channels]` that take part in what is done to it.
pub trait Elimination {
    /// The matrix becomes its inverse, and the rows are multiplied by it.
    ///
    /// # Errors
    /// If the matrix is not positive definite; the error names `what`.
    fn invert(&mut self, what: &str) -> Result<()>;

    /// The rows are multiplied by the inverse of the matrix, which is of no meaning afterwards.
    ///
    /// # Errors
    /// If the matrix is not positive definite; the error names `what`.
    fn solve(&mut self, what: &str) -> Result<()> {
        self.invert(what)
    }

    /// Other rows.
    fn set_rows(&mut self, rows: Mat<f64>) -> Result<()>;

    /// Channels that are left.
    fn channels(&self) -> usize;

    /// What the removal of each unit alone costs, where the matrix is the inverse, `P`, of a covariance and a unit is a run of so many
    /// channels: `tr(rows_p P_pp^-1 rows_p^T)`.
    fn costs(&self, channels_per_unit: usize, what: &str) -> Result<Vec<f64>>;

    /// Removes channels, counted among those that are left; the rows of the others take over what they can. Returns what that costs.
    fn remove(&mut self, channels: &[usize], what: &str) -> Result<f64>;

    /// Takes the rows of the channels that are left.
    fn take_rows(&mut self) -> Result<Mat<f64>>;
}
