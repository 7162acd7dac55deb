//! From a calibration to a plan and its changes, by FLAP or by the recipes beyond it: the same units and the same text, but removal by
//! what the rest can take over, weights that do take it over, and an allocation by error curves. Without retraining.
//!
//! * `flap`: the dense model's moments, a structure search, biases; one pass.
//! * `least-squares`: from the dense model's activations, in one pass.
//! * `sequential`: the same allocation; units and weights site by site from the pruned model's own activations, in a second pass.
//! * `search`: the allocation by measured divergence of variants of the model, in rounds; the rest as `sequential`.

mod allocation;
mod curve;
mod curves;
mod dense;
mod elimination;
mod gram;
mod layer;
mod least_squares;
mod linear_algebra;
mod on_device;
mod placement;
mod products;
mod refit;
mod removal;
mod saved_layers;
mod saves;
mod search;
mod sequential;
mod site_moments;
mod steps;
mod symmetric;
mod temporary;
mod weights;

pub use allocation::{AllocationSite, allocate, allocate_uniformly};
pub use elimination::Elimination;
pub use linear_algebra::System;
pub use on_device::OnDevice;
pub use placement::eliminate;
pub use removal::{Removal, remove_greedily};
pub use search::search_passes;
pub use steps::{calibrate, changes_from_covariances, plan_from_covariances};
pub use symmetric::Symmetric;

use crate::architecture::Site;
use crate::calibration::{self, Calibration};
use crate::compaction::Changes;
use crate::compensation;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pass::PassOptions;
use crate::plan::{Plan, PlanOptions, Recipe, nothing_removed};
use crate::pruning::{plan_from_kept, plan_from_statistics};
use crate::resume::ResumeState;
use crate::search::{Kept, places};
use crate::statistics::{Header, Statistics};
use curves::Curves;
use saves::{Finished, Saves};
use sequential::Start;
use std::time::Instant;

/// Ridge of a site of so many channels, seen in so many tokens, relative to each channel's own variance. With many tokens it is a hundredth:
/// the result is flat from 1e-3 to 1e-1. With fewer than a hundred a channel, the covariance itself is uncertain by their ratio, and the
/// ridge, which draws the weights to the old ones, grows with it.
fn ridge_share(channels: usize, tokens: u64) -> f64 {
    const LEAST: f64 = 0.01;
    LEAST.max(channels as f64 / tokens as f64)
}

/// What a recipe made.
pub struct Outcome {
    /// Which units stay.
    pub plan: Plan,
    /// What the user should know about it.
    pub notes: Vec<String>,
    /// New weights and biases.
    pub changes: Changes,
    /// The dense model's statistics, of which FLAP makes its plan.
    pub statistics: Statistics,
    /// Seconds of the passes, with the fitting where a recipe fits.
    pub seconds: f64,
}

/// Runs a recipe. With `resume`, finished layers are kept there, and an interrupted run goes on from them.
pub fn run<E: Engine>(calibration: &Calibration<'_, E>, options: &PlanOptions, resume: Option<&ResumeState>) -> Result<Outcome> {
    let &Calibration { engine, model, progress, .. } = calibration;
    options.check(&model.architecture)?;
    if options.recipe == Recipe::Flap {
        return flap(calibration, options, resume);
    }
    if options.mask_only {
        return Err(Error::input(
            "--mask-only zeroes what FLAP removes; the other recipes change weights: leave it out or give --recipe flap",
        ));
    }
    temporary::check(temporary::of_recipe(model, options), progress)?;
    let begin = Instant::now();
    let saves = resume.map(|state| Saves::new(calibration, options, state));
    let saves = saves.as_ref();
    let Finished { first, search, second } = saves.map(|saves| saves.load(progress)).transpose()?.unwrap_or_default();
    let (mut curves, statistics) = Curves::measure(calibration, options, first, saves)?;
    let removed = match (&second, options.recipe) {
        (Some(fitted), _) => fitted.units.removed.clone(),
        (None, Recipe::Search) => {
            let kept_in = saves.map(|saves| (saves, curves.first_pass(&statistics)));
            let removed = search::allocate(calibration, options, &curves, search, kept_in)?;
            curves.drop_covariances();
            removed
        }
        (None, _) => curves.allocate(model, options)?,
    };
    if removed.iter().all(|&count| count == 0) {
        return Err(nothing_removed(options.ratio));
    }
    let errors = curves.errors(&removed);
    let (kept, replaced) = if options.recipe == Recipe::LeastSquares {
        let kept = curves.kept(&removed);
        let replaced = least_squares::run(engine, model, &curves.covariances(), &kept, progress)?;
        (kept, replaced)
    } else {
        let start = second.map_or(Start::First(removed), Start::Behind);
        sequential::run(calibration, options, start, saves.map(|saves| (saves, curves.first_pass(&statistics))))?
    };
    let plan = plan_of(model, options, kept, errors, &statistics);
    let changes = Changes { biases: Vec::new(), replaced };
    Ok(Outcome { plan, notes: Vec::new(), changes, statistics, seconds: begin.elapsed().as_secs_f64() })
}

fn plan_of(model: &Model, options: &PlanOptions, kept: Vec<Vec<bool>>, errors: Vec<[f64; 2]>, statistics: &Statistics) -> Plan {
    let mut plan = plan_from_kept(model, options, &into_layers(kept), false);
    // What another calibration must have to carry out the same plan.
    let covariances = (options.recipe == Recipe::LeastSquares).then_some(options.token_weights);
    plan.calibration = Some(Header { covariances, ..statistics.header.clone() });
    plan.errors = Some(errors);
    plan
}

/// The paper.
fn flap<E: Engine>(calibration: &Calibration<'_, E>, options: &PlanOptions, resume: Option<&ResumeState>) -> Result<Outcome> {
    let &Calibration { engine, model, progress, .. } = calibration;
    let begin = Instant::now();
    let statistics = calibration::calibrate(calibration, resume)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (plan, notes) = plan_from_statistics(model, &statistics, options)?;
    let biases = compensation::biases(engine, model, Some(&statistics), &plan, progress)?;
    Ok(Outcome { plan, notes, changes: biases.into(), statistics, seconds })
}

/// What a pass may use beside the sums of the widest site, and with other residual streams at its side.
fn leave_room<E: Engine>(engine: &E, model: &Model, options: PassOptions, other_streams: usize) -> PassOptions {
    let architecture = &model.architecture;
    let layers = 0..architecture.layers.len();
    let channels = |layer: usize, site: Site| (model.architecture.channels(layer, site), model.architecture.channels_per_unit(layer, site));
    // The symmetric sum, and the sums with the target; later the elimination in their place, where the device has room for it.
    let sum = |(channels, _): (usize, usize)| gram::device_bytes(channels) + 4 * (channels * architecture.hidden_size) as u64;
    let elimination = |(channels, per_unit)| placement::device_bytes(engine, channels, architecture.hidden_size, per_unit).unwrap_or(0);
    let widest =
        |site: Site, bytes: &dyn Fn((usize, usize)) -> u64| layers.clone().map(|layer| bytes(channels(layer, site))).max().unwrap_or(0);
    // The map of the readers takes their place as well, twice its size.
    let map = 8 * (architecture.hidden_size * architecture.hidden_size) as u64;
    let sums = Site::BOTH.map(|site| widest(site, &sum)).into_iter().max().unwrap_or(0).max(map);
    let eliminations = Site::BOTH.map(|site| widest(site, &elimination));
    PassOptions { sums, eliminations, other_streams, ..options }
}

/// How much of a layer's work is half of that at a site, for the progress: Gram matrices and linear algebra grow with the square of its
/// channels, or more. One half counts with the site's tokens, the other when it is through.
fn half_of_work(model: &Model, layer: usize, site: Site) -> f64 {
    let square = |site: Site| (model.architecture.channels(layer, site) as f64).powi(2);
    square(site) / (2.0 * Site::BOTH.map(square).iter().sum::<f64>())
}

/// What messages call a site.
fn site_name(layer: usize, site: Site) -> String {
    format!("layer {layer}, {}", site.name())
}

/// The units that stay of so many when some go.
fn keep(removed: &[usize], units: usize) -> Vec<bool> {
    let mut kept = vec![true; units];
    removed.iter().for_each(|&unit| kept[unit] = false);
    kept
}

/// Channels of the units that stay.
fn kept_channels(kept: &[bool], channels_per_unit: usize) -> Vec<usize> {
    places(kept).into_iter().flat_map(|unit| unit * channels_per_unit..(unit + 1) * channels_per_unit).collect()
}

/// Attention and MLP of every layer in turn, as layers.
fn into_layers(sites: Vec<Vec<bool>>) -> Vec<Kept> {
    let mut sites = sites.into_iter();
    let mut layers = Vec::new();
    while let (Some(attention), Some(mlp)) = (sites.next(), sites.next()) {
        layers.push(Kept { attention, mlp });
    }
    layers
}
