//! The visitor that measures: moments on the device at both sites of a layer, merged in f64 on the host.

use super::CalibrationSet;
use crate::architecture::{PerSite, Site};
use crate::engine::{Engine, MomentsShape, SlotMoments};
use crate::error::{Error, Result};
use crate::forward::{LayerWeights, Observer};
use crate::model::Model;
use crate::pass::{Batch, Pass, Visitor};
use crate::resume::ResumeState;
use crate::statistics::{self, CompatMoments, LayerStatistics, Mode, Moments, SiteStatistics, Spread, Statistics};
use memmap2::Mmap;
use serde_json::Value;
use std::path::Path;

/// Files of a save.
const STATISTICS: &str = "statistics.safetensors";
pub const HIDDEN_STATES: &str = "hidden-states.f32";

/// Running moments of the channels of a layer's two sites.
pub struct ChannelMoments<E: Engine> {
    moments: PerSite<E::Moments>,
    /// First window of the batch that passes now.
    first_window: usize,
}

impl<E: Engine> ChannelMoments<E> {
    /// Empty moments for a layer.
    pub fn new(engine: &E, weights: &LayerWeights<E>, set: &CalibrationSet) -> Result<Self> {
        let moments = PerSite::try_from_fn(|site| {
            engine.moments(MomentsShape {
                channels: weights.shape.channels(site, weights.head_dim),
                windows: set.windows(),
                window_tokens: set.header.sequence_length,
                windows_per_slot: set.windows_per_slot,
            })
        })?;
        Ok(Self { moments, first_window: 0 })
    }

    /// Says which batch passes next.
    pub fn begin(&mut self, batch: &Batch<E>) {
        self.first_window = batch.first_window;
    }

    /// Reads the moments of both sites and the column norms of their projections.
    pub fn read(&self, engine: &E, weights: &LayerWeights<E>, mode: Mode) -> Result<LayerStatistics> {
        LayerStatistics::try_from_fn(|site| {
            let norms = engine.column_norms(&weights.writer(site).weight)?;
            Ok(SiteStatistics {
                spread: merge_slots(engine.read_moments(&self.moments[site])?, mode),
                weight_square_sum: norms.square_sum.into_iter().map(f64::from).collect(),
                weight_absolute_mean: norms.absolute_mean.into_iter().map(f64::from).collect(),
                covariance: None,
            })
        })
    }
}

impl<E: Engine> Observer<E> for ChannelMoments<E> {
    fn observe(&mut self, engine: &E, site: Site, x: &mut E::Tensor) -> Result<()> {
        engine.accumulate(&mut self.moments[site], x, self.first_window)
    }
}

fn merge_slots(slots: Vec<SlotMoments>, mode: Mode) -> Spread {
    let channels = slots.first().map_or(0, |slot| slot.mean.len());
    let slots: Vec<Moments> = slots.into_iter().map(|slot| Moments { count: slot.count, mean: slot.mean, m2: slot.m2 }).collect();
    match mode {
        Mode::Exact => {
            let mut moments = Moments::empty(channels);
            moments.merge(&slots);
            Spread::Exact(moments)
        }
        Mode::Compat => {
            let mut moments = CompatMoments::empty(channels);
            moments.push(&slots);
            Spread::Compat(moments)
        }
    }
}

/// Measures every layer.
pub struct Measure<'a, E: Engine> {
    set: &'a CalibrationSet,
    resume: Option<(&'a ResumeState, Value)>,
    moments: Option<ChannelMoments<E>>,
    layers: Vec<LayerStatistics>,
}

impl<'a, E: Engine> Measure<'a, E> {
    /// Goes on after `layers`.
    pub fn new(set: &'a CalibrationSet, layers: Vec<LayerStatistics>, resume: Option<(&'a ResumeState, Value)>) -> Self {
        Self { set, resume, moments: None, layers }
    }

    /// What was measured.
    pub fn into_layers(self) -> Vec<LayerStatistics> {
        self.layers
    }
}

impl<E: Engine> Visitor<E> for Measure<'_, E> {
    fn run(&mut self, pass: &Pass<'_, E>, _: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let mut moments = ChannelMoments::new(pass.engine, weights, self.set)?;
        for batch in batches {
            moments.begin(batch);
            pass.layer(weights, batch, &mut moments)?;
        }
        self.moments = Some(moments);
        Ok(())
    }

    fn finish(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &[Batch<E>]) -> Result<()> {
        let Some(moments) = self.moments.take() else { return Ok(()) };
        let statistics = moments.read(pass.engine, weights, self.set.header.mode)?;
        check_finite(layer, &statistics)?;
        self.layers.push(statistics);
        let is_last = layer + 1 == pass.model.architecture.layers.len();
        if let Some((resume, identity)) = self.resume.as_ref().filter(|_| !is_last) {
            resume.save_if_due(identity, |folder| save_layers(pass.engine, folder, self.set, &self.layers, batches));
        }
        Ok(())
    }
}

/// Writes the statistics of the finished layers into the folder of a save.
pub fn write_statistics<E: Engine>(engine: &E, folder: &Path, set: &CalibrationSet, layers: &[LayerStatistics]) -> Result<()> {
    statistics::write(&folder.join(STATISTICS), &set.measured_on(engine), layers)
}

/// Writes them, and the hidden states behind these layers.
pub fn save_layers<E: Engine>(
    engine: &E,
    folder: &Path,
    set: &CalibrationSet,
    layers: &[LayerStatistics],
    batches: &[Batch<E>],
) -> Result<()> {
    write_statistics(engine, folder, set, layers)?;
    Batch::save(engine, batches, &folder.join(HIDDEN_STATES))
}

/// The statistics of the finished layers.
pub fn read_statistics(model: &Model, folder: &Path) -> Result<Statistics> {
    let path = folder.join(STATISTICS);
    let found = statistics::read(&path)?;
    if (1..=model.architecture.layers.len()).contains(&found.layers.len()) {
        return Ok(found);
    }
    Err(Error::file(&path, "has not the layers it should have"))
}

/// Those, and the hidden states behind these layers.
pub fn load_layers(model: &Model, set: &CalibrationSet, folder: &Path) -> Result<(Statistics, Mmap)> {
    Ok((read_statistics(model, folder)?, set.map_hidden_states(model, &folder.join(HIDDEN_STATES))?))
}

/// Fails, naming the layer and site, if a moment is NaN or infinite.
pub fn check_finite(layer: usize, statistics: &LayerStatistics) -> Result<()> {
    for site in Site::BOTH {
        let measured = &statistics[site];
        let all = [measured.mean().to_vec(), measured.fluctuation(), measured.square()];
        if let Some(channel) = all.iter().find_map(|values| values.iter().position(|v| !v.is_finite())) {
            let place = format_args!("at the {} site of layer {layer}, channel {channel}", site.name());
            return Err(Error::activations_not_finite(place));
        }
    }
    Ok(())
}
