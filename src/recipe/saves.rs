//! What is kept of a recipe's finished work, so that an interrupted run goes on from it.
//!
//! A save of the first pass has the error curves, the statistics and the hidden states behind the last layer; one of a search, how many units
//! its rounds have removed; one of the second pass, the units that stay, and until its end the dense and the pruned stream. Covariances and
//! weights are written once, in files of single layers beside the saves.

use super::curve::Curve;
use super::saved_layers::{forget_covariances, keep_covariances, keep_weights, read_covariances, read_weights};
use crate::architecture::Site;
use crate::calibration::{Calibration, CalibrationSet, HIDDEN_STATES, read_statistics, write_statistics};
use crate::compaction::Replaced;
use crate::disk::files;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pass::Batch;
use crate::plan::{PlanOptions, Recipe};
use crate::progress::Progress;
use crate::resume::ResumeState;
use crate::statistics::{Header, LayerStatistics, Statistics};
use memmap2::Mmap;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;

/// Files of a save.
const RECORD: &str = "recipe.json";
const PRUNED: &str = "pruned-hidden-states.f32";

/// Where a recipe's finished layers are kept.
pub struct Saves<'a> {
    state: &'a ResumeState,
    model: &'a Model,
    set: &'a CalibrationSet,
    identity: Value,
    /// Of the files with covariances.
    header: Header,
    keeps_covariances: bool,
}

/// Whether a recipe needs the covariances of the first pass again.
pub fn keeps_covariances(recipe: Recipe) -> bool {
    matches!(recipe, Recipe::LeastSquares | Recipe::Search)
}

/// What is finished, as a save has it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record<'a> {
    curves: Cow<'a, [Curve]>,
    search: Option<Cow<'a, Searched>>,
    fit: Option<Cow<'a, Units>>,
}

/// How far a search has come.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Searched {
    /// Finished rounds.
    pub rounds: usize,
    /// Units that they have removed, per site of the whole model.
    pub removed: Vec<usize>,
}

/// The units of the second pass.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Units {
    /// How many go, per site of the whole model.
    pub removed: Vec<usize>,
    /// Which stay, per fitted site.
    pub kept: Vec<Vec<bool>>,
}

/// What an interrupted run has finished.
#[derive(Default)]
pub struct Finished {
    /// Layers of the first pass.
    pub first: Option<Measured>,
    /// Rounds of the search, which follows the whole first pass.
    pub search: Option<Searched>,
    /// Layers of the second pass, which follows both.
    pub second: Option<FittedLayers>,
}

/// Finished layers of the first pass.
pub struct Measured {
    /// Statistics of these layers.
    pub layers: Vec<LayerStatistics>,
    /// Curves of their sites.
    pub curves: Vec<Curve>,
    /// The hidden states behind them, unless these are all layers.
    pub hidden_states: Option<Mmap>,
}

/// Finished layers of the second pass.
pub struct FittedLayers {
    /// Their units.
    pub units: Units,
    /// Their weights.
    pub replaced: Replaced,
    /// The dense and the pruned stream behind them, unless these are all layers.
    pub streams: Option<[Mmap; 2]>,
}

/// The whole first pass.
#[derive(Clone, Copy)]
pub struct FirstPass<'a> {
    /// Statistics of all layers.
    pub layers: &'a [LayerStatistics],
    /// Curves of all sites.
    pub curves: &'a [Curve],
}

impl<'a> Saves<'a> {
    /// Of the run with these options.
    pub fn new<E: Engine>(calibration: &Calibration<'a, E>, options: &PlanOptions, state: &'a ResumeState) -> Self {
        let &Calibration { engine, model, set, .. } = calibration;
        let identity = json!([set.identity(engine, model), format!("{options:?}")]);
        let header = Header { covariances: Some(options.token_weights), ..set.header.clone() };
        Self { state, model, set, identity, header, keeps_covariances: keeps_covariances(options.recipe) }
    }

    /// What an interrupted run has finished; nothing if there was none.
    pub fn load(&self, progress: &dyn Progress) -> Result<Finished> {
        let found = self.state.load(&self.identity, progress, |folder| {
            let path = folder.join(RECORD);
            let record: Record = files::read_json(&path)?;
            let Statistics { header, layers } = read_statistics(self.model, folder)?;
            self.check(&record, layers.len()).map_err(|what| Error::file(&path, what))?;
            let (all, fitted) = (self.model.architecture.layers.len(), record.fit.as_ref().map_or(0, |units| units.kept.len() / 2));
            let replaced = read_weights(self.state, fitted, all)?;
            let mut curves = record.curves.into_owned();
            if self.keeps_covariances && fitted == 0 {
                let covariances = read_covariances(self.state, layers.len(), all)?;
                curves.iter_mut().zip(covariances).for_each(|(curve, covariance)| curve.covariance = Some(covariance));
            }
            let map = |name: &str| self.set.map_hidden_states(self.model, &folder.join(name));
            let hidden_states = (layers.len() < all).then(|| map(HIDDEN_STATES)).transpose()?;
            let fit = |units: Cow<'_, Units>| -> Result<FittedLayers> {
                let streams = (fitted < all).then(|| Ok::<_, Error>([map(HIDDEN_STATES)?, map(PRUNED)?])).transpose()?;
                Ok(FittedLayers { units: units.into_owned(), replaced, streams })
            };
            let second = record.fit.map(fit).transpose()?;
            let search = record.search.map(Cow::into_owned);
            progress.note(&match (&second, &search) {
                (Some(_), _) => format!("going on after layer {} of an interrupted run's second pass", fitted - 1),
                (None, Some(search)) => format!("going on after round {} of an interrupted run's search", search.rounds),
                (None, None) => format!("going on after layer {} of an interrupted run's first pass", layers.len() - 1),
            });
            self.set.go_on_from(header);
            Ok(Finished { first: Some(Measured { layers, curves, hidden_states }), search, second })
        });
        Ok(found?.unwrap_or_default())
    }

    /// Whether the numbers of a record belong together; says what does not.
    fn check(&self, record: &Record, layers: usize) -> std::result::Result<(), &'static str> {
        let whole = self.model.architecture.layers.len();
        let units = |site: usize| self.model.architecture.layers[site / 2].units(Site::BOTH[site % 2]);
        let curve = |(site, Curve { removal, .. }): (usize, &Curve)| {
            let mut order = removal.order.clone();
            order.sort_unstable();
            order.into_iter().eq(0..units(site)) && removal.curve.len() == units(site) + 1
        };
        if record.curves.len() != 2 * layers || !record.curves.iter().enumerate().all(curve) {
            return Err("has curves of other sites");
        }
        let of_all_sites = |removed: &[usize]| {
            layers == whole && removed.len() == 2 * whole && removed.iter().enumerate().all(|(site, &removed)| removed < units(site))
        };
        if record.search.as_ref().is_some_and(|search| !of_all_sites(&search.removed)) {
            return Err("has a search among other sites");
        }
        let Some(fit) = &record.fit else { return Ok(()) };
        let kept = |(site, kept): (usize, &Vec<bool>)| {
            kept.len() == units(site) && kept.iter().filter(|&&kept| !kept).count() == fit.removed[site]
        };
        let whole_layers = fit.kept.len().is_multiple_of(2) && (2..=2 * whole).contains(&fit.kept.len());
        if of_all_sites(&fit.removed) && whole_layers && fit.kept.iter().enumerate().all(kept) {
            return Ok(());
        }
        Err("has units of other sites")
    }

    /// Saves a part of the first pass, if it is time for it.
    pub fn save_measured<E: Engine>(&self, engine: &E, layers: &[LayerStatistics], curves: &[Curve], batches: &[Batch<E>]) {
        self.state.save_if_due(&self.identity, |folder| {
            self.write(engine, folder, layers, &Record { curves: curves.into(), search: None, fit: None })?;
            if layers.len() == self.model.architecture.layers.len() {
                return Ok(());
            }
            Batch::save(engine, batches, &folder.join(HIDDEN_STATES))
        });
    }

    /// Saves the first pass and how far the search has come, if it is time for it.
    pub fn save_searched<E: Engine>(&self, engine: &E, first: FirstPass<'_>, search: &Searched) {
        let record = Record { curves: first.curves.into(), search: Some(Cow::Borrowed(search)), fit: None };
        self.state.save_if_due(&self.identity, |folder| self.write(engine, folder, first.layers, &record));
    }

    /// Saves the first pass and a part of the second, if it is time for it: its units, weights, and the dense and the pruned stream.
    pub fn save_fitted<E: Engine>(
        &self,
        engine: &E,
        first: FirstPass<'_>,
        units: &Units,
        replaced: &Replaced,
        [dense, pruned]: [&[Batch<E>]; 2],
    ) {
        let record = Record { curves: first.curves.into(), search: None, fit: Some(Cow::Borrowed(units)) };
        let saved = self.state.save_if_due(&self.identity, |folder| {
            let fitted = units.kept.len() / 2;
            keep_weights(self.state, 0..fitted, replaced)?;
            self.write(engine, folder, first.layers, &record)?;
            if fitted == self.model.architecture.layers.len() {
                return Ok(());
            }
            Batch::save(engine, dense, &folder.join(HIDDEN_STATES))?;
            Batch::save(engine, pruned, &folder.join(PRUNED))
        });
        if saved {
            // The second pass does not go by them.
            forget_covariances(self.state, self.model.architecture.layers.len());
        }
    }

    /// Writes what every save has; without the white space of other JSON, as a record has a number for every channel.
    fn write<E: Engine>(&self, engine: &E, folder: &Path, layers: &[LayerStatistics], record: &Record<'_>) -> Result<()> {
        if self.keeps_covariances && record.fit.is_none() {
            let covariances: Vec<_> = record.curves.iter().map(Curve::covariance).collect();
            keep_covariances(self.state, &self.header, layers, &covariances)?;
        }
        write_statistics(engine, folder, self.set, layers)?;
        let path = folder.join(RECORD);
        let text = serde_json::to_vec(record).map_err(|e| Error::file(&path, format!("cannot be written as JSON: {e}")))?;
        files::write(&path, text)
    }
}
