//! The pruning plan: which query heads, key-value heads and neurons of each layer stay, and how that was decided. A JSON file.

mod options;
mod settings;

use crate::architecture::Architecture;
use crate::digest::hex;
use crate::disk::files;
use crate::error::{Error, Result};
use crate::search::{Kept, places};
use crate::statistics::Header;
use sha2::{Digest, Sha256};
use std::path::Path;

pub use options::{DEFAULT_REMOVE_HEADS, PlanOptions, Uniform};
pub(crate) use settings::argument;
pub use settings::{Compensation, Method, Recipe, Settings};

const FORMAT: &str = "flap-gpu-plan";
const VERSION: u32 = 1;
/// What decimal digits in a file may change of a share.
const SAME_SHARE: f64 = 1e-9;
const PROGRAM: &str = concat!("flap-gpu ", env!("CARGO_PKG_VERSION"));

/// Sizes of the dense model, to tell whether a plan belongs to a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedModel {
    /// Fingerprint of the weights.
    pub fingerprint: String,
    /// Family.
    pub family: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Query heads, key-value heads and neurons of each layer.
    pub layers: Vec<[usize; 3]>,
}

impl PlannedModel {
    /// The sizes of a model.
    #[must_use]
    pub fn of(architecture: &Architecture, fingerprint: String) -> Self {
        Self {
            fingerprint,
            family: architecture.family.to_string(),
            hidden_size: architecture.hidden_size,
            head_dim: architecture.head_dim,
            layers: architecture.layers.iter().map(|l| [l.heads, l.key_value_heads, l.intermediate_size]).collect(),
        }
    }
}

/// What stays of a layer: ascending places in the dense model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlannedLayer {
    /// Query heads.
    pub heads: Vec<usize>,
    /// Key-value heads.
    pub kv_heads: Vec<usize>,
    /// Neurons.
    pub neurons: Vec<usize>,
}

/// A pruning plan.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    format: String,
    version: u32,
    /// What made it, with its version.
    #[serde(default)]
    pub program: String,
    /// The dense model.
    pub model: PlannedModel,
    /// How it was made.
    pub settings: Settings,
    /// What it was measured on; magnitude-sp measures nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub calibration: Option<Header>,
    /// Share of the prunable parameters that goes.
    pub ratio_reached: f64,
    /// Of a recipe beyond FLAP: the squared error that its error curves predict behind each layer's attention and MLP, relative to the
    /// mean square of the residual stream there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub errors: Option<Vec<[f64; 2]>>,
    /// What stays.
    pub layers: Vec<PlannedLayer>,
    /// Digest of what stays, as it was planned: another one tells that the lists were edited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    planned: Option<String>,
}

fn digest(layers: &[PlannedLayer]) -> String {
    hex(Sha256::new().chain_update(serde_json::to_vec(layers).expect("numbers have a form in JSON")))
}

/// The error of a plan that would remove nothing.
#[must_use]
pub fn nothing_removed(ratio: f64) -> Error {
    Error::input(format!(
        "nothing would be removed: with these options the smallest step is more than --ratio {ratio}; give a larger one, or smaller multiples"
    ))
}

/// Share of the prunable parameters that goes.
fn share_removed(layers: &[PlannedLayer], architecture: &Architecture) -> f64 {
    let stays = |(i, layer): (usize, &PlannedLayer)| {
        layer.kv_heads.len() as u64 * architecture.unit_parameters(i) + layer.neurons.len() as u64 * architecture.neuron_parameters()
    };
    1.0 - layers.iter().enumerate().map(stays).sum::<u64>() as f64 / architecture.prunable_parameters() as f64
}

impl Plan {
    /// A plan from kept units.
    #[must_use]
    pub fn new(architecture: &Architecture, fingerprint: String, settings: Settings, kept: &[Kept]) -> Self {
        let layer = |(kept, shape): (&Kept, &crate::architecture::LayerShape)| {
            let kv_heads = places(&kept.attention);
            let group = shape.group_size();
            PlannedLayer {
                heads: kv_heads.iter().flat_map(|&unit| unit * group..(unit + 1) * group).collect(),
                kv_heads,
                neurons: places(&kept.mlp),
            }
        };
        let layers: Vec<PlannedLayer> = kept.iter().zip(&architecture.layers).map(layer).collect();
        Self {
            format: FORMAT.into(),
            version: VERSION,
            program: PROGRAM.into(),
            model: PlannedModel::of(architecture, fingerprint),
            settings,
            calibration: None,
            ratio_reached: share_removed(&layers, architecture),
            errors: None,
            planned: Some(digest(&layers)),
            layers,
        }
    }

    /// Reads a plan file.
    pub fn read(path: &Path) -> Result<Self> {
        let other = || Error::file(path, "is not a plan of `flap-gpu plan`");
        if path.is_file() && !files::begins_with(path, b"{") {
            return Err(other());
        }
        let value: serde_json::Value = files::read_json(path)?;
        if value.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
            return Err(other());
        }
        if value.get("version").and_then(serde_json::Value::as_u64) != Some(u64::from(VERSION)) {
            return Err(Error::file(path, format!("has another format version; this program reads {VERSION}")));
        }
        serde_json::from_value(value).map_err(|e| Error::file(path, format!("is not a complete plan: {e}")))
    }

    /// Fails unless the plan was made for this model and its lists can be carried out.
    pub fn check(&self, architecture: &Architecture, fingerprint: &str) -> Result<()> {
        if self.model != PlannedModel::of(architecture, fingerprint.to_string()) {
            return Err(Error::input("the plan was made for another model (sizes or weights differ)"));
        }
        if self.layers.len() != architecture.layers.len() {
            return Err(Error::input(format!("the plan lists {} layers, the model has {}", self.layers.len(), architecture.layers.len())));
        }
        for (index, (layer, shape)) in self.layers.iter().zip(&architecture.layers).enumerate() {
            let group = shape.group_size();
            let valid = |list: &[usize], size: usize| !list.is_empty() && list.is_sorted_by(|a, b| a < b) && list.iter().all(|&i| i < size);
            let whole_groups = layer
                .heads
                .iter()
                .copied()
                .eq(layer.kv_heads.iter().flat_map(|&unit| unit.saturating_mul(group)..unit.saturating_mul(group).saturating_add(group)));
            if !valid(&layer.kv_heads, shape.key_value_heads) || !valid(&layer.neurons, shape.intermediate_size) || !whole_groups {
                return Err(Error::input(format!(
                    "the plan's layer {index} is not a list of ascending places of this model with whole groups of heads, at least one of each"
                )));
            }
        }
        let share = share_removed(&self.layers, architecture);
        if (share - self.ratio_reached).abs() > SAME_SHARE {
            return Err(Error::input(format!(
                "the plan's layers remove a share of {share}, but it says {}; if they were edited, put that in `ratio_reached`",
                self.ratio_reached
            )));
        }
        if self.settings.recipe != Recipe::Flap && (self.settings.mask_only || self.settings.compensation != Compensation::Bias) {
            return Err(Error::input(format!(
                "the plan's settings contradict each other: --recipe {} removes units, and gives biases along with its weights",
                self.settings.recipe.name()
            )));
        }
        Ok(())
    }

    /// Whether its lists are others than those that were planned: no command makes them again.
    #[must_use]
    pub fn is_edited(&self) -> bool {
        self.planned.as_ref().is_some_and(|planned| *planned != digest(&self.layers))
    }

    /// Whether a model has the sizes that this plan leaves.
    #[must_use]
    pub fn describes(&self, model: &Architecture) -> bool {
        let kept = |(layer, dense): (&PlannedLayer, &[usize; 3])| {
            if self.settings.mask_only { *dense } else { [layer.heads.len(), layer.kv_heads.len(), layer.neurons.len()] }
        };
        let found = model.layers.iter().map(|layer| [layer.heads, layer.key_value_heads, layer.intermediate_size]);
        self.layers.len() == self.model.layers.len() && self.layers.iter().zip(&self.model.layers).map(kept).eq(found)
    }

    /// The pruned model's structure. With `mask_only` only biases are added.
    #[must_use]
    pub fn pruned(&self, dense: &Architecture) -> Architecture {
        let mut pruned = dense.clone();
        for (planned, shape) in self.layers.iter().zip(&mut pruned.layers) {
            if self.settings.compensation == Compensation::Bias {
                // The sequential fit corrects every site, pruned or not.
                let all = matches!(self.settings.recipe, Recipe::Sequential | Recipe::Search);
                shape.o_bias |= all || planned.heads.len() < shape.heads;
                shape.down_bias |= all || planned.neurons.len() < shape.intermediate_size;
            }
            if !self.settings.mask_only {
                shape.heads = planned.heads.len();
                shape.key_value_heads = planned.kv_heads.len();
                shape.intermediate_size = planned.neurons.len();
            }
        }
        pruned
    }
}
