//! What is kept of a recipe's finished layers, so that an interrupted run goes on from them.
//!
//! A save of the first pass has the error curves, the statistics and the hidden states behind the last layer; one of the second pass also
//! the units that stay and the pruned stream. Weights are written once, a file for each fitted layer, beside the saves.

use super::RecipeOptions;
use super::curve::Curve;
use super::layer::readers;
use crate::architecture::Part;
use crate::architecture::Site;
use crate::calibration::{CalibrationSet, HIDDEN_STATES, load_layers, save_layers};
use crate::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader, files};
use crate::compaction::Replaced;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pass::Batch;
use crate::progress::Progress;
use crate::resume::ResumeState;
use crate::statistics::{LayerStatistics, Statistics};
use crate::tensor::HostTensor;
use memmap2::Mmap;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
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
}

/// What is finished, as a save has it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record<'a> {
    curves: Cow<'a, [Curve]>,
    fit: Option<Cow<'a, Units>>,
}

/// The units of the second pass.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct Units {
    /// How many go, per site of the whole model.
    pub removed: Vec<usize>,
    /// Which stay, per fitted site.
    pub kept: Vec<Vec<bool>>,
}

/// Finished layers of the first pass.
pub struct Measured {
    /// Statistics of these layers.
    pub layers: Vec<LayerStatistics>,
    /// Curves of their sites.
    pub curves: Vec<Curve>,
    /// The hidden states behind them.
    pub hidden_states: Mmap,
}

/// Finished layers of the second pass.
pub struct FittedLayers {
    /// Their units.
    pub units: Units,
    /// Their weights.
    pub replaced: Replaced,
    /// The dense and the pruned stream behind them.
    pub streams: [Mmap; 2],
}

impl<'a> Saves<'a> {
    /// Of the run with these options.
    pub fn new<E: Engine>(engine: &E, model: &'a Model, state: &'a ResumeState, set: &'a CalibrationSet, options: &RecipeOptions) -> Self {
        let identity = json!([set.identity(engine, model), format!("{:?}, refit: {}", options.plan, options.refit)]);
        Self { state, model, set, identity }
    }

    /// What an interrupted run has finished: all of the first pass with a part of the second, or a part of the first.
    pub fn load(&self, progress: &dyn Progress) -> Result<Option<(Measured, Option<FittedLayers>)>> {
        self.state.load(&self.identity, progress, |steps, folder| {
            let path = folder.join(RECORD);
            let record: Record = files::read_json(&path)?;
            let fitted = record.fit.as_ref().map_or(0, |units| units.kept.len() / 2);
            let (Statistics { header, layers }, hidden_states) = load_layers(self.model, self.set, steps - steps.min(fitted), folder)?;
            self.check(&record, layers.len()).map_err(|what| Error::file(&path, what))?;
            self.state.forget_layers(fitted..self.model.architecture.layers.len());
            let fit = record.fit.map(|fit| -> Result<_> {
                let mut replaced = Replaced::new();
                (0..fitted).try_for_each(|layer| read_weights(&self.state.of_layer(layer), layer, &mut replaced))?;
                let map = |name: &str| self.set.map_hidden_states(self.model, &folder.join(name));
                let streams = [map(HIDDEN_STATES)?, map(PRUNED)?];
                progress.note(&format!("going on after layer {} of an interrupted run's second pass", fitted - 1));
                Ok(FittedLayers { units: fit.into_owned(), replaced, streams })
            });
            let fit = fit.transpose()?;
            if fit.is_none() {
                progress.note(&format!("going on after layer {} of an interrupted run's first pass", layers.len() - 1));
            }
            self.set.go_on_from(header);
            Ok((Measured { layers, curves: record.curves.into_owned(), hidden_states }, fit))
        })
    }

    /// Whether the numbers of a record belong together; says what does not.
    fn check(&self, record: &Record, layers: usize) -> std::result::Result<(), &'static str> {
        let whole = self.model.architecture.layers.len();
        let units = |site: usize| self.model.architecture.layers[site / 2].units(Site::BOTH[site % 2]);
        let curve =
            |(site, curve): (usize, &Curve)| curve.removal.order.len() == units(site) && curve.removal.curve.len() == units(site) + 1;
        if record.curves.len() != 2 * layers || !record.curves.iter().enumerate().all(curve) {
            return Err("has curves of other sites");
        }
        let Some(fit) = &record.fit else { return Ok(()) };
        let kept = |(site, kept): (usize, &Vec<bool>)| {
            kept.len() == units(site) && kept.iter().filter(|&&kept| !kept).count() == fit.removed[site]
        };
        let complete = layers == whole
            && fit.removed.len() == 2 * whole
            && fit.kept.len().is_multiple_of(2)
            && (2..=2 * whole).contains(&fit.kept.len());
        if complete && (0..2 * whole).all(|site| fit.removed[site] < units(site)) && fit.kept.iter().enumerate().all(kept) {
            return Ok(());
        }
        Err("has units of other sites")
    }

    /// Saves a part of the first pass, if it is time for it.
    pub fn save_measured<E: Engine>(&self, engine: &E, layers: &[LayerStatistics], curves: &[Curve], batches: &[Batch<E>]) {
        self.state.save_if_due(&self.identity, layers.len(), |folder| {
            save_layers(engine, folder, self.set, layers, batches)?;
            write_record(folder, &Record { curves: curves.into(), fit: None })
        });
    }

    /// Saves the first pass and a part of the second, if it is time for it: its units, weights, and the dense and the pruned stream.
    pub fn save_fitted<E: Engine>(
        &self,
        engine: &E,
        first: &FirstPass<'_>,
        units: &Units,
        replaced: &Replaced,
        [dense, pruned]: [&[Batch<E>]; 2],
    ) {
        let fitted = units.kept.len() / 2;
        self.state.save_if_due(&self.identity, first.layers.len() + fitted, |folder| {
            for layer in 0..fitted {
                self.state.keep_layer(layer, |path| write_weights(path, layer, replaced))?;
            }
            save_layers(engine, folder, self.set, first.layers, dense)?;
            Batch::save(engine, pruned, &folder.join(PRUNED))?;
            write_record(folder, &Record { curves: first.curves.into(), fit: Some(Cow::Borrowed(units)) })
        });
    }
}

/// The whole first pass.
pub struct FirstPass<'a> {
    /// Statistics of all layers.
    pub layers: &'a [LayerStatistics],
    /// Curves of all sites.
    pub curves: &'a [Curve],
}

/// Without the white space of other files: it has a line for every channel.
fn write_record(folder: &Path, record: &Record) -> Result<()> {
    let path = folder.join(RECORD);
    let text = serde_json::to_vec(record).map_err(|e| Error::file(&path, format!("cannot be written as JSON: {e}")))?;
    files::write(&path, text)
}

/// Writes a layer's new tensors.
fn write_weights(path: &Path, layer: usize, replaced: &Replaced) -> Result<()> {
    let tensors: Vec<(Part, &HostTensor)> = Part::ALL.iter().filter_map(|&part| Some((part, replaced.get(&(layer, part))?))).collect();
    let header = |&(part, tensor): &(Part, &HostTensor)| TensorHeader {
        name: part.name(layer),
        dtype: tensor.dtype.name().into(),
        shape: vec![tensor.rows, tensor.columns],
        bytes: tensor.bytes.as_ref().len(),
    };
    let mut writer = SafetensorsWriter::create(path, &tensors.iter().map(header).collect::<Vec<_>>(), &BTreeMap::new())?;
    tensors.iter().try_for_each(|(_, tensor)| writer.write(tensor.bytes.as_ref()))?;
    writer.finish()
}

/// Reads them back; the numbers stay in the mapped file.
fn read_weights(path: &Path, layer: usize, replaced: &mut Replaced) -> Result<()> {
    for stored in TensorFile::open(path)?.stored_tensors()? {
        let part = Part::ALL.into_iter().find(|part| part.name(layer) == stored.name);
        let part = part.ok_or_else(|| stored.error("is not a layer's"))?;
        replaced.insert((layer, part), stored.read()?);
    }
    let parts = Site::BOTH.into_iter().flat_map(|site| [readers(site), &<[Part; 2]>::from(site.writer())].concat());
    match parts.into_iter().find(|&part| !replaced.contains_key(&(layer, part))) {
        Some(part) => Err(Error::file(path, format!("has no tensor `{}`", part.name(layer)))),
        None => Ok(()),
    }
}
