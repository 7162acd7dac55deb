//! Weights that reproduce the dense site from what stays of its channels, from the dense model's own moments.

use super::curves::Curves;
use super::gram::times_symmetric;
use super::linear_algebra::{System, product, ridge, select_columns};
use super::scratch::Scratch;
use super::symmetric::Symmetric;
use super::weights::{row, to_bytes, to_matrix};
use super::{RIDGE, channels_per_unit, into_layers, keep, kept_channels, writer};
use crate::compaction::Replaced;
use crate::error::Result;
use crate::model::Model;
use crate::progress::Progress;
use crate::search::Kept;
use faer::{Mat, MatRef};

/// New output and down projections, with biases that keep the mean, for every site that loses units.
pub fn run(model: &Model, curves: &Curves, removed: &[usize], progress: &dyn Progress) -> Result<(Vec<Kept>, Replaced)> {
    progress.start("fitting weights", "sites", removed.len() as u64);
    let mut scratch = Scratch::new()?;
    let mut replaced = Replaced::new();
    let mut all = Vec::new();
    for (curve, &count) in curves.sites.iter().zip(removed) {
        crate::interrupt::check()?;
        let kept = keep(&curve.removal.order[..count], curve.removal.order.len());
        if let Some(covariance) = curve.covariance.as_ref().filter(|_| count > 0) {
            let what = format!("layer {}, {}", curve.layer, curve.site.name());
            let (part, bias_part) = writer(curve.site);
            let host = model.part(curve.layer, part)?;
            let weight = to_matrix(&host);
            let channels = kept_channels(&kept, channels_per_unit(model, curve.layer, curve.site));
            let fitted = refit(&covariance.load(), weight.as_ref(), &channels, &what)?;
            let bytes = to_bytes(fitted.as_ref(), host.dtype, &what)?;
            let fitted_host = scratch.keep(&bytes, host.dtype, fitted.nrows(), fitted.ncols())?;
            // The bias makes up for the rounding of the weights as well.
            let fitted = to_matrix(&fitted_host);
            let mean = Mat::from_fn(curve.mean.len(), 1, |i, _| curve.mean[i]);
            let kept_mean = Mat::from_fn(channels.len(), 1, |i, _| curve.mean[channels[i]]);
            let mut bias = product(weight.as_ref(), mean.as_ref()) - product(fitted.as_ref(), kept_mean.as_ref());
            if let Some(own_bias) = model.bias(curve.layer, bias_part)? {
                bias += Mat::from_fn(own_bias.len(), 1, |i, _| f64::from(own_bias[i]));
            }
            let bias: Vec<f64> = (0..bias.nrows()).map(|i| bias[(i, 0)]).collect();
            let bias_bytes = to_bytes(row(&bias).as_ref(), host.dtype, &what)?;
            replaced.insert((curve.layer, part), fitted_host);
            replaced.insert((curve.layer, bias_part), scratch.keep(&bias_bytes, host.dtype, 1, bias.len())?);
        }
        all.push(kept);
        progress.advance(1);
    }
    progress.finish();
    Ok((into_layers(all), replaced))
}

/// The weights `[outputs, kept]` that best reproduce `weight` on all channels from the kept ones, with a ridge toward the old ones:
/// `((C_KK + R)^-1 (C_K: W^T + R W_K^T))^T`.
fn refit(covariance: &Symmetric, weight: MatRef<'_, f64>, kept: &[usize], what: &str) -> Result<Mat<f64>> {
    let ridge = ridge(covariance, RIDGE);
    let rows = times_symmetric(weight, covariance, kept) + select_columns(weight, kept) * faer::Scale(ridge);
    let mut matrix = covariance.principal(kept);
    matrix.add_to_diagonal(ridge);
    let mut system = System { matrix, rows };
    system.invert(what)?;
    Ok(system.rows)
}
