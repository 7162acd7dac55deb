//! `least-squares` in steps: a calibration that keeps the covariances, which merge over shards; the plan; what carrying it out changes.

use super::curves::Curves;
use super::dense::{DenseSite, Sites};
use super::saved_layers::{keep_covariances, read_covariances, with_covariances};
use super::{dense, least_squares, plan_of, temporary};
use crate::architecture::LayerShape;
use crate::calibration::{Calibration, CalibrationSet, load_layers, save_layers};
use crate::compaction::Changes;
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pass::Batch;
use crate::plan::{Plan, PlanOptions, PlannedLayer};
use crate::progress::Progress;
use crate::pruning::check_statistics;
use crate::resume::ResumeState;
use crate::statistics::{Header, LayerStatistics, SiteCovariance, Statistics, TokenWeights};
use serde_json::{Value, json};

/// The statistics of a calibration with the covariances of all sites, which stay in a temporary file. With `resume`, finished layers are kept
/// there, and an interrupted run goes on from them.
pub fn calibrate<E: Engine>(
    calibration: &Calibration<'_, E>,
    token_weights: TokenWeights,
    resume: Option<&ResumeState>,
) -> Result<Statistics> {
    let &Calibration { engine, model, set, progress, .. } = calibration;
    temporary::check(temporary::covariances(model), progress)?;
    let identity = json!([set.identity(engine, model), token_weights]);
    let all = model.architecture.layers.len();
    let finished = resume.map(|state| {
        state.load(&identity, progress, |folder| {
            let (Statistics { header, layers }, hidden_states) = load_layers(model, set, folder)?;
            let covariances = read_covariances(state, layers.len(), all)?;
            progress.note(&format!("going on after layer {} of an interrupted run", layers.len() - 1));
            set.go_on_from(header);
            Ok((covariances, (layers, hidden_states)))
        })
    });
    let (found, finished) = finished.transpose()?.flatten().unzip();
    let header = Header { covariances: Some(token_weights), ..set.measured_on(engine) };
    let saves = resume.map(|state| (state, identity, set));
    let mut sites = Covariances { scratch: Scratch::new()?, found: found.unwrap_or_default(), saves, header, all };
    let statistics = dense::measure(calibration, token_weights, finished, &mut sites)?;
    let of_layers = sites.found.as_chunks().0.iter().map(|[attention, mlp]| [attention, mlp]);
    let layers = statistics.layers.iter().zip(of_layers).map(|(layer, found)| with_covariances(layer, found)).collect();
    Ok(Statistics { layers, header: sites.header })
}

struct Covariances<'a> {
    scratch: Scratch,
    /// Of all sites so far.
    found: Vec<SiteCovariance>,
    /// Where finished layers are kept, as whose, and their windows.
    saves: Option<(&'a ResumeState, Value, &'a CalibrationSet)>,
    header: Header,
    /// Layers of the model.
    all: usize,
}

impl<E: Engine> Sites<E> for Covariances<'_> {
    fn site(&mut self, found: DenseSite) -> Result<()> {
        self.found.push(found.keep(&mut self.scratch)?);
        Ok(())
    }

    fn layer(&mut self, engine: &E, statistics: &[LayerStatistics], batches: &[Batch<E>]) {
        let Some((state, identity, set)) = self.saves.as_ref().filter(|_| statistics.len() < self.all) else { return };
        state.save_if_due(identity, |folder| {
            keep_covariances(state, &self.header, statistics, &self.found.iter().collect::<Vec<_>>())?;
            save_layers(engine, folder, set, statistics, batches)
        });
    }
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
    Ok(plan_of(model, &options, curves.kept(&removed), curves.errors(&removed), statistics))
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
    let kept = |(layer, shape): (&PlannedLayer, &LayerShape)| {
        let of = |places: &[usize], size: usize| {
            let mut kept = vec![false; size];
            places.iter().for_each(|&place| kept[place] = true);
            kept
        };
        [of(&layer.kv_heads, shape.key_value_heads), of(&layer.neurons, shape.intermediate_size)]
    };
    let kept: Vec<Vec<bool>> = plan.layers.iter().zip(&model.architecture.layers).flat_map(kept).collect();
    Ok(Changes { biases: Vec::new(), replaced: least_squares::run(engine, model, &statistics.covariances()?, &kept, progress)? })
}
