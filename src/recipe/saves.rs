//! What is kept of a recipe's finished layers, so that an interrupted run goes on from them.
//!
//! A save of the first pass has the error curves, the statistics and the hidden states behind the last layer; one of the second pass also
//! the units that stay and the pruned stream. Weights are written once, a file for each fitted layer, beside the saves.

use super::RecipeOptions;
use super::curve::Curve;
use crate::architecture::Part;
use crate::calibration::{CalibrationSet, load_layers, save_layers};
use crate::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader, files};
use crate::compaction::Replaced;
use crate::engine::{Engine, HostTensor};
use crate::error::{Error, Result};
use crate::pass::Batch;
use crate::resume::ResumeState;
use crate::statistics::LayerStatistics;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files of a save.
const RECORD: &str = "recipe.json";
const PRUNED: &str = "pruned-hidden-states.f32";

/// Where a recipe's finished layers are kept.
pub struct Saves<'a> {
    state: &'a ResumeState,
    set: &'a CalibrationSet,
    identity: Value,
}

/// What is finished, as a save has it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record<'a> {
    curves: Cow<'a, [Curve]>,
    fit: Option<FitRecord<'a>>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct FitRecord<'a> {
    removed: Cow<'a, [usize]>,
    kept: Cow<'a, [Vec<bool>]>,
}

/// Finished layers of the first pass.
pub struct Measured {
    /// Statistics of these layers.
    pub layers: Vec<LayerStatistics>,
    /// Curves of their sites.
    pub curves: Vec<Curve>,
    /// File of the hidden states behind them.
    pub hidden_states: PathBuf,
}

/// Finished layers of the second pass.
pub struct FittedLayers {
    /// Units that go, per site of the whole model.
    pub removed: Vec<usize>,
    /// Units that stay, per fitted site.
    pub kept: Vec<Vec<bool>>,
    /// Their weights.
    pub replaced: Replaced,
    /// Files of the dense and the pruned stream behind these layers.
    pub hidden_states: [PathBuf; 2],
}

impl<'a> Saves<'a> {
    /// Of the run with these options.
    pub fn new(state: &'a ResumeState, set: &'a CalibrationSet, options: &RecipeOptions) -> Self {
        let identity = json!([set.header, format!("{:?}, refit: {}", options.plan, options.refit)]);
        Self { state, set, identity }
    }

    /// What an interrupted run has finished: all of the first pass with a part of the second, or a part of the first.
    pub fn load(&self) -> Option<(Measured, Option<FittedLayers>)> {
        self.state.load(&self.identity, |steps, folder| {
            let (layers, hidden_states) = load_layers(steps, folder)?;
            let record: Record = files::read_json(&folder.join(RECORD))?;
            let fits = |fit: &FitRecord| fit.removed.len() == 2 * layers.len() && (2..=2 * layers.len()).contains(&fit.kept.len());
            if record.curves.len() != 2 * layers.len() || !record.fit.as_ref().is_none_or(fits) {
                return Err(Error::file(&folder.join(RECORD), "is not of these layers"));
            }
            let fit = record.fit.map(|fit| -> Result<_> {
                let kept = fit.kept.into_owned();
                let mut replaced = Replaced::new();
                let fitted = kept.len() / 2;
                (0..fitted).try_for_each(|layer| read_weights(&self.weights(layer), layer, &mut replaced))?;
                // What a save that was never completed has left is made anew.
                (fitted..layers.len()).for_each(|layer| drop(fs::remove_file(self.weights(layer))));
                let hidden_states = [hidden_states.clone(), folder.join(PRUNED)];
                Ok(FittedLayers { removed: fit.removed.into_owned(), kept, replaced, hidden_states })
            });
            let (fit, done) = (fit.transpose()?, layers.len() - 1);
            match &fit {
                None => tracing::warn!("going on after layer {done} of an interrupted run's first pass"),
                Some(fit) => tracing::warn!("going on after layer {} of an interrupted run's second pass", fit.kept.len() / 2 - 1),
            }
            Ok((Measured { layers, curves: record.curves.into_owned(), hidden_states }, fit))
        })
    }

    /// Saves a part of the first pass, if it is time for it.
    pub fn save_measured<E: Engine>(&self, engine: &E, layers: &[LayerStatistics], curves: &[Curve], batches: &[Batch<E>]) {
        self.state.save_if_due(&self.identity, layers.len(), |folder| {
            save_layers(engine, folder, &self.set.header, layers, batches)?;
            files::write_json(&folder.join(RECORD), &Record { curves: curves.into(), fit: None })
        });
    }

    /// Saves the first pass and a part of the second, if it is time for it.
    pub fn save_fitted<E: Engine>(&self, engine: &E, first: &FirstPass<'_>, fit: &FitState<'_, E>) {
        let fitted = fit.kept.len() / 2;
        self.state.save_if_due(&self.identity, first.layers.len() + fitted, |folder| {
            for layer in 0..fitted {
                write_weights(&self.weights(layer), layer, fit.replaced)?;
            }
            save_layers(engine, folder, &self.set.header, first.layers, fit.dense)?;
            Batch::save(engine, fit.pruned, &folder.join(PRUNED))?;
            let fit = FitRecord { removed: fit.removed.into(), kept: fit.kept.into() };
            files::write_json(&folder.join(RECORD), &Record { curves: first.curves.into(), fit: Some(fit) })
        });
    }

    fn weights(&self, layer: usize) -> PathBuf {
        self.state.folder().join(format!("layer-{layer}.safetensors"))
    }
}

/// The whole first pass.
pub struct FirstPass<'a> {
    /// Statistics of all layers.
    pub layers: &'a [LayerStatistics],
    /// Curves of all sites.
    pub curves: &'a [Curve],
}

/// A part of the second pass.
pub struct FitState<'a, E: Engine> {
    /// Units that go, per site.
    pub removed: &'a [usize],
    /// Units that stay, per fitted site.
    pub kept: &'a [Vec<bool>],
    /// Weights.
    pub replaced: &'a Replaced,
    /// The dense stream.
    pub dense: &'a [Batch<E>],
    /// The pruned stream.
    pub pruned: &'a [Batch<E>],
}

/// Writes a layer's new tensors, if they are not there yet.
fn write_weights(path: &Path, layer: usize, replaced: &Replaced) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let tensors: Vec<(Part, &HostTensor)> = Part::ALL.iter().filter_map(|&part| Some((part, replaced.get(&(layer, part))?))).collect();
    let header = |&(part, tensor): &(Part, &HostTensor)| TensorHeader {
        name: part.name(layer),
        dtype: tensor.dtype.safetensors_name().into(),
        shape: vec![tensor.rows, tensor.columns],
        bytes: tensor.bytes.as_ref().len(),
    };
    // Under another name until it is whole: what has the name is taken for complete.
    let temporary = path.with_extension("new");
    let mut writer = SafetensorsWriter::create(&temporary, &tensors.iter().map(header).collect::<Vec<_>>(), &BTreeMap::new())?;
    tensors.iter().try_for_each(|(_, tensor)| writer.write(tensor.bytes.as_ref()))?;
    writer.finish()?;
    fs::rename(&temporary, path).map_err(Error::io(path, "cannot write"))
}

/// Reads them back; the numbers stay in the mapped file.
fn read_weights(path: &Path, layer: usize, replaced: &mut Replaced) -> Result<()> {
    for stored in TensorFile::open(path)?.stored_tensors()? {
        let part = Part::ALL.into_iter().find(|part| part.name(layer) == stored.name);
        let part = part.ok_or_else(|| stored.error("is not a layer's"))?;
        replaced.insert((layer, part), stored.read()?);
    }
    Ok(())
}
