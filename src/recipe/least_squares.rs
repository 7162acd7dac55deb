//! Weights that reproduce the dense site from what stays of its channels, from the dense model's own moments.

use super::layer::Fitted;
use super::linear_algebra::{System, ridge};
use super::placement::{eliminate, room_without_pass};
use super::products::{product, select_columns, times_vector};
use super::symmetric::Symmetric;
use super::weights::to_matrix;
use super::{kept_channels, ridge_share, site_name};
use crate::architecture::Site;
use crate::compaction::Replaced;
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Model;
use crate::progress::Progress;
use crate::statistics::SiteCovariance;
use faer::{Mat, MatRef};

/// New weights, with a bias that keeps the mean, for what stays of a site.
pub fn fit<E: Engine>(
    engine: &E,
    room: u64,
    model: &Model,
    (layer, site): (usize, Site),
    covariance: &SiteCovariance,
    kept: &[bool],
    scratch: &mut Scratch,
) -> Result<Fitted> {
    let what = site_name(layer, site);
    let (part, bias_part) = site.writer();
    let host = model.part(layer, part)?;
    let weight = to_matrix(&host);
    let gone: Vec<bool> = kept.iter().map(|kept| !kept).collect();
    let [channels, gone] = [kept, &gone].map(|flags| kept_channels(flags, model.architecture.channels_per_unit(layer, site)));
    let share = ridge_share(covariance.mean.len(), covariance.tokens);
    let fitted = solve(engine, room, &Symmetric::unpacked(covariance), share, weight.as_ref(), [&channels, &gone], &what)?;
    let kept_mean: Vec<f64> = channels.iter().map(|&channel| covariance.mean[channel]).collect();
    let mut target = times_vector(weight.as_ref(), &covariance.mean);
    if let Some(bias) = model.bias(layer, bias_part)? {
        target.iter_mut().zip(bias).for_each(|(target, bias)| *target += f64::from(bias));
    }
    Fitted::keep(scratch, fitted.as_ref(), &target, &kept_mean, host.dtype, &what)
}

/// All sites, given by layer, site and covariance, of which `kept` says what stays.
pub fn run<E: Engine>(
    engine: &E,
    model: &Model,
    sites: &[(usize, Site, &SiteCovariance)],
    kept: &[Vec<bool>],
    progress: &dyn Progress,
) -> Result<Replaced> {
    progress.start("fitting weights", "sites", kept.len() as u64);
    let mut scratch = Scratch::new()?;
    let mut replaced = Replaced::new();
    for (&(layer, site, covariance), kept) in sites.iter().zip(kept) {
        crate::interrupt::check()?;
        if kept.contains(&false) {
            covariance.check_finite(&site_name(layer, site))?;
            let fitted = fit(engine, room_without_pass(engine), model, (layer, site), covariance, kept, &mut scratch)?;
            let (part, bias_part) = site.writer();
            replaced.insert((layer, part), fitted.weight);
            replaced.insert((layer, bias_part), fitted.bias);
        }
        progress.advance(1);
    }
    progress.finish();
    Ok(replaced)
}

/// The weights `[outputs, kept]` that best reproduce `weight` on all channels from the kept ones, with a ridge toward the old ones: those,
/// and what the kept channels can take over of the removed ones, `W_K + W_R C_RK (C_KK + R)^-1`.
fn solve<E: Engine>(
    engine: &E,
    room: u64,
    covariance: &Symmetric,
    ridge_share: f64,
    weight: MatRef<'_, f64>,
    [kept, removed]: [&[usize]; 2],
    what: &str,
) -> Result<Mat<f64>> {
    let mut matrix = covariance.principal(kept);
    let ridge = ridge(covariance, ridge_share);
    matrix.add_to_diagonal(&kept.iter().map(|&channel| ridge[channel]).collect::<Vec<_>>());
    let rows = product(select_columns(weight, removed).as_ref(), covariance.block(removed, kept).as_ref());
    let taken_over = eliminate(engine, room, System { matrix, rows }, [weight.nrows(), 1], |system| {
        system.solve(what)?;
        system.take_rows()
    })?;
    Ok(select_columns(weight, kept) + taken_over)
}
