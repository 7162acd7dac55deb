//! From statistics, from weights alone, or layer by layer from what the pruned layers before leave, to a plan.

mod wanda;

pub use wanda::wanda_sp;

use crate::architecture::{Architecture, Site};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::importance;
use crate::interrupt;
use crate::model::Model;
use crate::plan::{Method, Plan, PlanOptions};
use crate::progress::Progress;
use crate::search::{Kept, LayerScores, Problem, Structure};
use crate::statistics::{LayerStatistics, Mode, Statistics};

/// Fails unless the statistics were taken on this model, over all windows.
pub fn check_statistics(model: &Model, statistics: &Statistics) -> Result<()> {
    let header = &statistics.header;
    let other = || Error::input("the statistics were taken on another model (sizes or weights differ); calibrate this one");
    if header.model != model.fingerprint() || statistics.layers.len() != model.architecture.layers.len() {
        return Err(other());
    }
    for (index, layer) in statistics.layers.iter().enumerate() {
        if Site::BOTH.iter().any(|&site| layer[site].channels() != model.architecture.channels(index, site)) {
            return Err(other());
        }
    }
    if !header.is_complete() {
        return Err(Error::input(format!(
            "the statistics cover {:?} of {} windows; merge the missing shards first with `flap-gpu merge`",
            header.windows, header.samples
        )));
    }
    Ok(())
}

/// Plans from the statistics of the dense model. Returns the plan and notes for the user.
pub fn plan_from_statistics(model: &Model, statistics: &Statistics, options: &PlanOptions) -> Result<(Plan, Vec<String>)> {
    if options.method != Method::Flap {
        return Err(Error::input(
            "statistics of the dense model serve --method flap only: wanda-sp measures each layer behind the already pruned ones, \
             magnitude-sp needs none; use `flap-gpu prune --method ...` for them",
        ));
    }
    check_statistics(model, statistics)?;
    let compat = statistics.header.mode == Mode::Compat;
    if compat && statistics.header.samples < 2 && options.metric != importance::Metric::Wifn {
        return Err(Error::input(
            "the authors' code leaves the first window out of the fluctuation, and there is no other: --compat needs --samples 2 or more",
        ));
    }
    let scores = |(layer, units): (&LayerStatistics, usize)| LayerScores {
        attention: options.metric.channel_scores(Site::Attention, &layer.attention),
        mlp: options.metric.channel_scores(Site::Mlp, &layer.mlp),
        units,
    };
    let units = model.architecture.layers.iter().map(|l| l.key_value_heads);
    let layers = statistics.layers.iter().zip(units).map(scores).collect();
    let (mut plan, notes) = search(model, options, layers, compat)?;
    plan.calibration = Some(statistics.header.clone());
    Ok((plan, notes))
}

/// Plans by the norms of the weights alone; `compat` decides between equals as the authors' code does.
pub fn plan_by_magnitude<E: Engine>(
    engine: &E,
    model: &Model,
    options: &PlanOptions,
    compat: bool,
    progress: &dyn Progress,
) -> Result<(Plan, Vec<String>)> {
    let count = model.architecture.layers.len();
    progress.start("reading weights", "layers", count as u64);
    let layer = |index: usize| -> Result<LayerScores> {
        interrupt::check()?;
        let scores = |site: Site| -> Result<Vec<f64>> {
            let host = model.part(index, site.writer().0)?;
            Ok(importance::magnitude(&engine.column_norms(&engine.upload_matrix(&host)?)?.square_sum))
        };
        let scores = LayerScores {
            attention: scores(Site::Attention)?,
            mlp: scores(Site::Mlp)?,
            units: model.architecture.layers[index].key_value_heads,
        };
        progress.advance(1);
        Ok(scores)
    };
    let layers = (0..count).map(layer).collect::<Result<Vec<_>>>()?;
    progress.finish();
    search(model, options, layers, compat)
}

/// A plan from units that were chosen elsewhere, such as layer by layer.
#[must_use]
pub fn plan_from_kept(model: &Model, options: &PlanOptions, kept: &[Kept], compat: bool) -> Plan {
    Plan::new(&model.architecture, model.fingerprint(), options.settings(compat), kept)
}

/// The search that the options ask for.
fn problem(options: &PlanOptions, architecture: &Architecture, layers: Vec<LayerScores>, strict: bool) -> Problem {
    let group = architecture.layers[0].group_size();
    Problem {
        unit_parameters: (0..layers.len()).map(|i| architecture.unit_parameters(i)).collect(),
        neuron_parameters: architecture.neuron_parameters(),
        ratio: options.ratio,
        remove_units: options.remove_heads / group,
        round_neurons: options.round_neurons,
        round_units: options.round_units(group),
        uniform_units: options.uniform.map(|uniform| uniform.units(architecture)),
        layers,
        strict,
    }
}

/// The structure of that search; the recipes beyond FLAP share units out as AL-AM does.
fn structure(options: &PlanOptions) -> Structure {
    options.settings(false).structure.unwrap_or_default()
}

fn search(model: &Model, options: &PlanOptions, layers: Vec<LayerScores>, compat: bool) -> Result<(Plan, Vec<String>)> {
    options.check(&model.architecture)?;
    let found = problem(options, &model.architecture, layers, compat).search(structure(options))?;
    Ok((plan_from_kept(model, options, &found.layers, compat), found.notes))
}

/// Fails if no plan can be what the options ask for, whatever the scores: a search among any tells, before something is measured.
pub fn check_options(architecture: &Architecture, options: &PlanOptions, compat: bool) -> Result<()> {
    options.check(architecture)?;
    let scores = |count: usize| (0..count).map(|score| score as f64).collect();
    let layer = |index: usize| LayerScores {
        attention: scores(architecture.channels(index, Site::Attention)),
        mlp: scores(architecture.channels(index, Site::Mlp)),
        units: architecture.layers[index].key_value_heads,
    };
    let layers = (0..architecture.layers.len()).map(layer).collect();
    problem(options, architecture, layers, compat).search(structure(options)).map(drop)
}
