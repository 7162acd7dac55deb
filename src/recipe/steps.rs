//! `least-squares` in steps: a calibration that keeps the covariances, which merge over shards; the plan; what carrying it out changes.

use super::curves::Curves;
use super::dense::{DenseSite, Sites};
use super::{dense, least_squares, plan_of};
use crate::architecture::LayerShape;
use crate::architecture::Site;
use crate::calibration::{CalibrationSet, HIDDEN_STATES};
use crate::checkpoint::Scratch;
use crate::compaction::Changes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pass::{Batch, PassOptions};
use crate::plan::{Plan, PlanOptions, PlannedLayer};
use crate::progress::Progress;
use crate::pruning::check_statistics;
use crate::resume::ResumeState;
use crate::statistics::{self, Header, LayerStatistics, SiteCovariance, Statistics, TokenWeights};
use memmap2::Mmap;
use serde_json::{Value, json};

/// The statistics of a calibration with the covariances of all sites, which stay in a temporary file. With `resume`, finished layers are kept
/// there, and an interrupted run goes on from them.
pub fn calibrate<E: Engine>(
    engine: &E,
    model: &Model,
    set: &CalibrationSet,
    pass: PassOptions,
    token_weights: TokenWeights,
    resume: Option<&ResumeState>,
    progress: &dyn Progress,
) -> Result<Statistics> {
    let identity = json!([set.identity(engine, model), token_weights]);
    let layers = model.architecture.layers.len();
    let finished = resume.map(|state| {
        state.load(&identity, progress, |steps, folder| {
            let (header, finished) = read_layers(state, steps, layers)?;
            let hidden_states = set.map_hidden_states(model, &folder.join(HIDDEN_STATES))?;
            progress.note(&format!("going on after layer {} of an interrupted run", steps - 1));
            Ok((header, finished, hidden_states))
        })
    });
    let finished = finished.transpose()?.flatten().map(|(header, finished, hidden_states)| {
        set.go_on_from(header);
        (finished, hidden_states)
    });
    let header = Header { covariances: Some(token_weights), ..set.measured_on(engine) };
    let found = finished.iter().flat_map(|(layers, _)| layers).flat_map(covariances).collect();
    let mut sites = Covariances { scratch: Scratch::new()?, found, finished, resume, identity, header, layers };
    let statistics = dense::measure(engine, model, set, pass, token_weights, progress, &mut sites)?;
    let layers = statistics.layers.iter().enumerate().map(|(index, layer)| sites.with_covariances(index, layer)).collect();
    Ok(Statistics { layers, header: sites.header })
}

struct Covariances<'a> {
    scratch: Scratch,
    /// Of all sites so far.
    found: Vec<SiteCovariance>,
    finished: Option<(Vec<LayerStatistics>, Mmap)>,
    resume: Option<&'a ResumeState>,
    identity: Value,
    header: Header,
    /// Of the model.
    layers: usize,
}

impl Covariances<'_> {
    fn with_covariances(&self, index: usize, layer: &LayerStatistics) -> LayerStatistics {
        let mut layer = layer.clone();
        let found = &self.found[2 * index..];
        Site::BOTH.into_iter().zip(found).for_each(|(site, found)| layer.site_mut(site).covariance = Some(found.clone()));
        layer
    }
}

impl<E: Engine> Sites<E> for Covariances<'_> {
    fn finished(&mut self) -> Option<(Vec<LayerStatistics>, Mmap)> {
        self.finished.take()
    }

    fn site(&mut self, found: DenseSite) -> Result<()> {
        self.found.push(found.keep(&mut self.scratch)?);
        Ok(())
    }

    fn layer(&mut self, engine: &E, statistics: &[LayerStatistics], batches: &[Batch<E>]) {
        let Some(state) = self.resume.filter(|_| statistics.len() < self.layers) else { return };
        state.save_if_due(&self.identity, statistics.len(), |folder| {
            for (index, layer) in statistics.iter().enumerate() {
                state.keep_layer(index, |path| {
                    let layers = vec![self.with_covariances(index, layer)];
                    statistics::write(path, &Statistics { header: self.header.clone(), layers })
                })?;
            }
            Batch::save(engine, batches, &folder.join(HIDDEN_STATES))
        });
    }
}

/// The covariances of a layer that was saved with them.
fn covariances(layer: &LayerStatistics) -> impl Iterator<Item = SiteCovariance> {
    Site::BOTH.into_iter().filter_map(|site| layer.site(site).covariance.clone())
}

/// So many finished layers, of all, and what the runs that measured them say of themselves.
fn read_layers(state: &ResumeState, layers: usize, all: usize) -> Result<(Header, Vec<LayerStatistics>)> {
    if !(1..all).contains(&layers) {
        return Err(Error::file(&state.of_layer(layers), "is not what a save goes on from"));
    }
    state.forget_layers(layers..all);
    let read = |layer: usize| -> Result<(Header, LayerStatistics)> {
        let path = state.of_layer(layer);
        let Statistics { header, layers: mut found } = statistics::read(&path)?;
        match (found.pop(), found.is_empty()) {
            (Some(layer), true) if covariances(&layer).count() == 2 => Ok((header, layer)),
            _ => Err(Error::file(&path, "has not one layer with its covariances")),
        }
    };
    let (headers, found): (Vec<Header>, Vec<_>) = (0..layers).map(read).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let earlier = headers.into_iter().reduce(|mut all, header| {
        all.add_maker(&header);
        all
    });
    Ok((earlier.expect("there is at least one layer"), found))
}

/// The plan of `least-squares` from statistics with covariances.
pub fn plan_from_covariances<E: Engine>(
    engine: &E,
    model: &Model,
    statistics: &Statistics,
    options: &PlanOptions,
    progress: &dyn Progress,
) -> Result<Plan> {
    check_statistics(model, statistics)?;
    let options = PlanOptions { token_weights: statistics.header.token_weights()?, ..options.clone() };
    let curves = Curves::from_statistics(engine, model, statistics, progress)?;
    let removed = curves.allocate(model, &options)?;
    Ok(plan_of(model, &options, curves.kept(&removed), &curves.report(&removed), statistics))
}

/// What carrying out such a plan changes.
pub fn changes_from_covariances<E: Engine>(
    engine: &E,
    model: &Model,
    statistics: Option<&Statistics>,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Changes> {
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
    Ok(Changes { biases: Vec::new(), replaced: least_squares::run(engine, model, sites, &kept, progress)? })
}
