//! The refit of the projections that read the residual stream: what they read is the pruned stream, what they are to see the dense one.

use super::RIDGE;
use super::gram::{Cross, Gram};
use super::linear_algebra::{System, ridge};
use super::placement::eliminate;
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::{LayerWeights, Site};
use crate::pass::{Batch, Pass};
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
    for (dense, pruned) in dense.iter().zip(pruned) {
        crate::interrupt::check()?;
        let x = dense.read(engine, |h| weights.normalise(engine, site, h))?;
        let reached = pruned.read(engine, |g| weights.normalise(engine, site, g))?;
        let tokens = dense.windows * pass.window_tokens;
        own.add(engine, &reached, tokens)?;
        across.add(engine, &reached, &x, tokens)?;
    }
    // Sums instead of means: the ridge is relative, and both sides have the same count.
    let own = own.finish(engine)?;
    let ridge = ridge(&own, RIDGE);
    let mut system = System::ridged(own, RIDGE);
    system.rows = across.finish(engine)?;
    (0..hidden).for_each(|i| system.rows[(i, i)] += ridge);
    eliminate(engine, system, hidden, 1, |system| {
        system.invert(what)?;
        system.take_rows()
    })
}
