//! The structure of the whole model: which attention units and neurons stay, for a pruning ratio. Pure functions from scores.
//!
//! An attention unit is a key-value head with its query heads. Equal scores are told apart by their place, so a result is the
//! same on every machine; in strict mode thresholds decide as in the authors' code, ties included.

mod across_layers;
mod per_layer;
mod round;
mod uniform;

pub use per_layer::uniform_layer;
pub(crate) use uniform::{Alike, between};

use crate::error::{Error, Result};

/// How the budget is spread over layers and sites (UL/AL: uniform or adaptive over layers; UM/MM/AM: uniform, manual or adaptive
/// over the two sites).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Structure {
    /// All units of all layers compete.
    #[default]
    AlAm,
    /// Attention units compete over all layers for `--remove-heads`, neurons for the rest.
    AlMm,
    /// The same share of every layer's units and neurons.
    UlUm,
    /// The same number of units and of neurons from every layer, by `--remove-heads`.
    UlMm,
}

/// Scores of a layer.
#[derive(Debug, Clone)]
pub struct LayerScores {
    /// Per channel of the attention site.
    pub attention: Vec<f64>,
    /// Per neuron.
    pub mlp: Vec<f64>,
    /// Attention units; each owns an equal run of channels.
    pub units: usize,
}

impl LayerScores {
    fn unit_channels(&self) -> impl Iterator<Item = &[f64]> {
        self.attention.chunks_exact(self.attention.len() / self.units)
    }

    /// Sum of the channels of each attention unit.
    fn unit_sums(&self) -> Vec<f64> {
        self.unit_channels().map(|channels| channels.iter().sum()).collect()
    }
}

/// What to search.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Scores of all layers.
    pub layers: Vec<LayerScores>,
    /// Parameters of an attention unit of each layer.
    pub unit_parameters: Vec<u64>,
    /// Parameters of a neuron.
    pub neuron_parameters: u64,
    /// Share of the prunable parameters to remove.
    pub ratio: f64,
    /// Attention units to remove in the manual structures.
    pub remove_units: usize,
    /// Kept neurons of a layer become a multiple of this.
    pub round_neurons: usize,
    /// Kept attention units of a layer become a multiple of this.
    pub round_units: usize,
    /// Every layer keeps the same number of units, one of these, and of neurons.
    pub uniform_units: Option<Vec<usize>>,
    /// Decide by thresholds, and with a truncated cost of attention units, as the authors' code does.
    pub strict: bool,
}

/// What stays of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Per attention unit.
    pub attention: Vec<bool>,
    /// Per neuron.
    pub mlp: Vec<bool>,
}

/// A structure found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What stays of each layer.
    pub layers: Vec<Kept>,
    /// What the user should know: units that stay because every layer keeps one, sizes that could not be rounded, and
    /// where no head goes.
    pub notes: Vec<String>,
}

impl Problem {
    /// Prunable parameters of a layer.
    fn layer_parameters(&self, layer: usize) -> u64 {
        let scores = &self.layers[layer];
        scores.units as u64 * self.unit_parameters[layer] + scores.mlp.len() as u64 * self.neuron_parameters
    }

    /// Whether a uniform plan may keep this many attention units in every layer.
    fn allows_units(&self, count: usize) -> bool {
        let allowed = self.uniform_units.as_ref().is_none_or(|units| units.contains(&count));
        allowed && count.is_multiple_of(self.round_units.max(1))
    }

    fn total_parameters(&self) -> u64 {
        (0..self.layers.len()).map(|layer| self.layer_parameters(layer)).sum()
    }

    /// Searches.
    ///
    /// # Errors
    /// If the ratio is none, or the number of heads to remove cannot be reached.
    pub fn search(&self, structure: Structure) -> Result<Found> {
        if !(self.ratio > 0.0 && self.ratio < 1.0) {
            return Err(Error::input(format!("the ratio {} is outside (0, 1)", self.ratio)));
        }
        let uniform = self.uniform_units.is_some();
        let mut notes = Vec::new();
        let mut layers = match structure {
            Structure::AlAm if uniform => return Ok(Found { layers: uniform::search(self)?, notes: Vec::new() }),
            Structure::AlMm if uniform => {
                return Err(Error::input("--structure al-mm lets layers differ in heads; leave it or --uniform out"));
            }
            Structure::UlUm => self.layers.iter().map(|scores| uniform_layer(scores, self.ratio, self.strict)).collect(),
            Structure::UlMm => per_layer::manual(self)?,
            Structure::AlMm => across_layers::manual(self, &mut notes)?,
            Structure::AlAm => across_layers::adaptive(self),
        };
        notes.extend(self.keep_one(&mut layers));
        let removes_none = match structure {
            Structure::UlMm => self.remove_units < self.layers.len(),
            Structure::AlMm => self.remove_units == 0,
            Structure::AlAm | Structure::UlUm => false,
        };
        if removes_none {
            let each = if structure == Structure::UlMm { " of every layer" } else { "" };
            notes.push(format!("no head is removed: --remove-heads is less than one attention unit{each}"));
        }
        notes.extend(round::round(self, structure, &mut layers));
        let sizes = |kept: &Kept| (count(&kept.attention), count(&kept.mlp));
        if uniform && !layers.iter().all(|kept| sizes(kept) == sizes(&layers[0]) && self.allows_units(count(&kept.attention))) {
            return Err(Error::input(
                "no plan of this structure leaves layers alike: leave --structure (or --method) out, or --uniform and --for",
            ));
        }
        Ok(Found { layers, notes })
    }

    /// Gives back the best attention unit and neuron to layers that have none.
    fn keep_one(&self, layers: &mut [Kept]) -> Vec<String> {
        let mut notes = Vec::new();
        for (index, (kept, scores)) in layers.iter_mut().zip(&self.layers).enumerate() {
            let (unit_sums, mlp) = (scores.unit_sums(), scores.mlp.as_slice());
            for (kept, scores, what) in [(&mut kept.attention, unit_sums.as_slice(), "attention unit"), (&mut kept.mlp, mlp, "neuron")] {
                if !kept.contains(&true) {
                    kept[best(scores)] = true;
                    notes.push(format!("layer {index}: one {what} stays although its score would remove it"));
                }
            }
        }
        notes
    }
}

/// The places of what stays, ascending.
#[must_use]
pub fn places(kept: &[bool]) -> Vec<usize> {
    (0..kept.len()).filter(|&place| kept[place]).collect()
}

/// How many stay.
fn count(kept: &[bool]) -> usize {
    kept.iter().filter(|&&kept| kept).count()
}

/// The place of the largest score, the first among equals.
fn best(scores: &[f64]) -> usize {
    (0..scores.len()).reduce(|best, i| if scores[i] > scores[best] { i } else { best }).unwrap_or(0)
}

/// Places in ascending order of scores; equal scores in the order of their places.
fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}

/// Keeps all but the `count` lowest scores.
fn without_lowest(scores: &[f64], count: usize) -> Vec<bool> {
    let mut kept = vec![true; scores.len()];
    ascending(scores).into_iter().take(count).for_each(|i| kept[i] = false);
    kept
}
