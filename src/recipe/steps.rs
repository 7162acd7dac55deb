//! `least-squares` in steps: a calibration that keeps the covariances, which merge over shards; the plan; what carrying it out changes.

use super::curves::Curves;
use super::dense::{DenseSite, Sites};
use super::{dense, least_squares, plan_of};
use crate::architecture::LayerShape;
use crate::calibration::CalibrationSet;
use crate::checkpoint::Scratch;
use crate::compaction::Changes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::Site;
use crate::model::Model;
use crate::pass::PassOptions;
use crate::plan::{Plan, PlanOptions, PlannedLayer};
use crate::progress::Progress;
use crate::pruning::check_statistics;
use crate::statistics::{SiteCovariance, Statistics, TokenWeights};

/// The statistics of a calibration with the covariances of all sites, which stay in a temporary file.
pub fn calibrate<E: Engine>(
    engine: &E,
    model: &Model,
    set: &CalibrationSet,
    pass: PassOptions,
    token_weights: TokenWeights,
    progress: &dyn Progress,
) -> Result<Statistics> {
    let mut covariances = Covariances { scratch: Scratch::new()?, found: Vec::new() };
    let mut statistics = dense::measure(engine, model, set, pass, token_weights, progress, &mut covariances)?;
    statistics.header.covariances = Some(token_weights);
    let mut covariances = covariances.found.into_iter();
    for layer in &mut statistics.layers {
        Site::BOTH.into_iter().for_each(|site| layer.site_mut(site).covariance = covariances.next());
    }
    Ok(statistics)
}

struct Covariances {
    scratch: Scratch,
    found: Vec<SiteCovariance>,
}

impl<E: Engine> Sites<E> for Covariances {
    fn site(&mut self, found: DenseSite) -> Result<()> {
        self.found.push(found.keep(&mut self.scratch)?);
        Ok(())
    }
}

/// The plan of `least-squares` from statistics with covariances.
pub fn plan_from_covariances(model: &Model, statistics: &Statistics, options: &PlanOptions, progress: &dyn Progress) -> Result<Plan> {
    check_statistics(model, statistics)?;
    let options = PlanOptions { token_weights: statistics.header.token_weights()?, ..options.clone() };
    let curves = Curves::from_statistics(model, statistics, progress)?;
    let removed = curves.allocate(model, &options)?;
    Ok(plan_of(model, &options, curves.kept(&removed), &curves.report(&removed), statistics))
}

/// What carrying out such a plan changes.
pub fn changes_from_covariances(model: &Model, statistics: Option<&Statistics>, plan: &Plan, progress: &dyn Progress) -> Result<Changes> {
    let Some(statistics) = statistics else {
        return Err(Error::input("the plan's weights are fitted to the statistics' covariances: give --statistics"));
    };
    statistics.header.token_weights()?;
    let sites = statistics
        .layers
        .iter()
        .enumerate()
        .flat_map(|(index, layer)| Site::BOTH.into_iter().map(move |site| (index, site, layer.site(site).covariance.as_ref())));
    let kept = |(layer, shape): (&PlannedLayer, &LayerShape)| {
        let of = |places: &[usize], size: usize| {
            let mut kept = vec![false; size];
            places.iter().for_each(|&place| kept[place] = true);
            kept
        };
        [of(&layer.kv_heads, shape.key_value_heads), of(&layer.neurons, shape.intermediate_size)]
    };
    let kept: Vec<Vec<bool>> = plan.layers.iter().zip(&model.architecture.layers).flat_map(kept).collect();
    Ok(Changes { biases: Vec::new(), replaced: least_squares::run(model, sites, &kept, progress)? })
}
