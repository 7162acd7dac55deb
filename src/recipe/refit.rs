//! The refit of the projections that read the residual stream: what they read is the pruned stream, what they are to see the dense one.

use super::gram::{Cross, Gram};
use super::linear_algebra::{System, ridge};
use super::on_device::{transposed, upload_columns};
use super::placement::eliminate;
use super::products::product;
use super::ridge_share;
use super::weights::{out_of_range, to_bytes, to_matrix};
use crate::architecture::Site;
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::LayerWeights;
use crate::pass::{Batch, Pass};
use crate::tensor::{HostTensor, narrowed};
use faer::Mat;

/// The map `M` that brings the pruned stream's normalised activations nearest to the dense ones', to be multiplied to the readers'
/// weights: `((U + R)^-1 (V + R))^T` with the uncentred `U = E[x~ x~^T]` and `V = E[x~ x^T]`.
pub fn reader_map<E: Engine>(
    pass: &Pass<'_, E>,
    site: Site,
    weights: &LayerWeights<E>,
    [dense, pruned]: [&[Batch<E>]; 2],
    what: &str,
) -> Result<Mat<f64>> {
    let engine = pass.engine;
    let hidden = pass.model.architecture.hidden_size;
    let mut own = Gram::new(engine, hidden);
    let mut across = Cross::new(engine, hidden, hidden);
    let mut seen = 0;
    for (dense, pruned) in dense.iter().zip(pruned) {
        crate::interrupt::check()?;
        let x = dense.read(engine, |h| weights.normalise(engine, site, h))?;
        let reached = pruned.read(engine, |g| weights.normalise(engine, site, g))?;
        let tokens = dense.windows * pass.window_tokens;
        own.add(engine, &reached, tokens)?;
        across.add(engine, &reached, &x, tokens)?;
        seen += tokens as u64;
    }
    // Sums instead of means: the ridge is relative, and both sides have the same count.
    let own = own.finish(engine)?;
    let share = ridge_share(hidden, seen);
    let ridge = ridge(&own, share);
    let mut system = System::ridged(own, share);
    system.rows = across.finish(engine)?;
    ridge.iter().enumerate().for_each(|(i, ridge)| system.rows[(i, i)] += ridge);
    eliminate(engine, pass.room(), system, [hidden, 1], |system| {
        system.solve(what)?;
        system.take_rows()
    })
}

/// Rows of a weight that are multiplied at once on the device.
const PANEL_ROWS: usize = 512;

/// `weight map`, in the weight's number format: on the device, in f32, where `room` bytes of it hold the map twice.
pub fn refit<E: Engine>(engine: &E, room: u64, weight: &HostTensor, map: &Mat<f64>, what: &str) -> Result<HostTensor> {
    let (columns, dtype) = (weight.columns, weight.dtype);
    let map_bytes = 4 * (columns * columns) as u64;
    if map_bytes > (room / 2).min(engine.info().max_binding_bytes) {
        let bytes = to_bytes(product(to_matrix(weight).as_ref(), map.as_ref()).as_ref(), dtype, what)?;
        return Ok(HostTensor::owning(bytes, dtype, weight.rows, columns));
    }
    let map = upload_columns(engine, map.transpose())?;
    let mut bytes = Vec::with_capacity(weight.rows * weight.row_bytes());
    for first in (0..weight.rows).step_by(PANEL_ROWS) {
        let rows = PANEL_ROWS.min(weight.rows - first);
        let panel = engine.upload(&weight.row_panel(first..first + rows).to_f32(), columns)?;
        // Sums run over lines.
        let transposed = transposed(engine, &panel, rows, 0..columns)?;
        let values = engine.download(&engine.cross(&transposed, 0..rows, &map)?)?;
        bytes.extend(narrowed(dtype, &values).ok_or_else(|| out_of_range(dtype, what))?);
    }
    Ok(HostTensor::owning(bytes, dtype, weight.rows, columns))
}
