//! The dense linear algebra of the recipes as one interface: the inverse of a covariance, and the removal of channels from it.

use super::linear_algebra::System;
use super::on_device::OnDevice;
use super::removal::BLOCKS;
use super::symmetric::PANEL;
use crate::engine::Engine;
use crate::error::Result;
use faer::Mat;

/// A symmetric positive definite matrix of channels with rows `[outputs, channels]` that take part in what is done to it.
pub trait Elimination {
    /// The matrix becomes its inverse, and the rows are multiplied by it.
    ///
    /// # Errors
    /// If the matrix is not positive definite; the error names `what`.
    fn invert(&mut self, what: &str) -> Result<()>;

    /// Other rows.
    fn set_rows(&mut self, rows: Mat<f64>) -> Result<()>;

    /// Channels that are left.
    fn channels(&self) -> usize;

    /// What the removal of each unit alone costs, where the matrix is the inverse, `P`, of a covariance and a unit is a run of so many
    /// channels: `tr(rows_p P_pp^-1 rows_p^T)`.
    fn costs(&self, channels_per_unit: usize, what: &str) -> Result<Vec<f64>>;

    /// Removes channels, counted among those that are left; the rows of the others take over what they can. Returns what that costs.
    fn remove(&mut self, channels: &[usize], what: &str) -> Result<f64>;

    /// The rows of the channels that are left.
    fn rows(self: Box<Self>) -> Result<Mat<f64>>;
}

/// A matrix with rows that are set now or later, `[outputs, size]`. On the device within `budget` bytes where it has single channels as
/// units; larger units are factored one by one, on the host.
pub fn elimination<'a, E: Engine>(
    engine: &'a E,
    budget: u64,
    system: System,
    outputs: usize,
    channels_per_unit: usize,
) -> Result<Box<dyn Elimination + 'a>> {
    if channels_per_unit == 1 && device_bytes(engine, budget, system.matrix.size(), outputs).is_some() {
        return Ok(Box::new(OnDevice::new(engine, &system.matrix, system.rows)?));
    }
    Ok(Box::new(system))
}

/// Bytes that an elimination takes on the device; none if it stays on the host.
pub fn device_bytes<E: Engine>(engine: &E, budget: u64, size: usize, outputs: usize) -> Option<u64> {
    let info = engine.info();
    let bytes = OnDevice::<E>::bytes(size, outputs);
    let largest_tensor = 4 * size.div_ceil(BLOCKS).max(PANEL) as u64 * size.max(outputs) as u64;
    (info.kind == "gpu" && bytes <= budget && largest_tensor <= info.max_binding_bytes).then_some(bytes)
}

/// Bytes of the device that an elimination may take.
pub fn budget<E: Engine>(engine: &E, memory_budget: Option<u64>) -> u64 {
    // The other half is for the layer and the hidden states.
    memory_budget.unwrap_or(engine.info().memory_budget) / 2
}
