//! Carrying out a plan: the tensors of the pruned model, cut from the map and given their biases while they are written.
//!
//! It does not know how the plan was made, nor in which form the model is written.

mod slice;

pub use slice::Slice;

use crate::architecture::{Architecture, LayerTensor, Part, Site};
use crate::checkpoint::{Storage, StoredTensor};
use crate::compensation::LayerBiases;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::LayerWeights;
use crate::model::Model;
use crate::plan::{Plan, PlannedLayer};
use crate::tensor::{Dtype, HostTensor, narrowed};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Tensors that a recipe has made anew, by layer and part, already cut.
pub type Replaced = HashMap<(usize, Part), HostTensor>;

/// What a plan's model has besides what the plan leaves.
#[derive(Default)]
pub struct Changes {
    /// Biases to be added, per layer; may be empty.
    pub biases: Vec<LayerBiases>,
    /// Tensors instead of the model's own.
    pub replaced: Replaced,
}

impl From<Vec<LayerBiases>> for Changes {
    fn from(biases: Vec<LayerBiases>) -> Self {
        Self { biases, replaced: Replaced::new() }
    }
}

/// Where a tensor's data comes from.
enum Source {
    /// Numbers that were made.
    Made(HostTensor),
    /// What is left of a tensor.
    Cut(StoredTensor, Slice),
    /// A tensor that no pruning touches.
    Kept(StoredTensor),
}

/// A tensor of the pruned model; its data exists only while it is written.
pub struct CompactTensor {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its layer and the part it plays there; `None` outside the layers.
    pub part: Option<(usize, Part)>,
    /// How its numbers are stored.
    pub storage: Storage,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The file of the dense model's tensor that it is made of, if it is.
    file: Option<Arc<Path>>,
    source: Source,
}

impl CompactTensor {
    /// Numbers it holds.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }

    /// Bytes of its data.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.source {
            Source::Made(host) => host.bytes.as_ref().len(),
            Source::Cut(stored, _) => stored.bytes.as_ref().len() / stored.len().max(1) * self.shape.iter().product::<usize>(),
            Source::Kept(stored) => stored.bytes.as_ref().len(),
        }
    }

    /// Its numbers, in memory where it is cut.
    fn read(&self) -> Result<HostTensor> {
        match &self.source {
            Source::Made(host) => Ok(host.clone()),
            Source::Cut(stored, slice) => slice.cut(&stored.read()?),
            Source::Kept(stored) => stored.read(),
        }
    }

    /// Hands its bytes to `sink`, block by block, rows in order; fails at a number that is NaN or infinite. Of quantised ones nothing is said.
    pub fn write(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        /// Looked through while a core's cache holds them.
        const CHECKED_BYTES: usize = 1 << 18;
        const SCALED_ROWS: usize = 1024;
        let mut checked = |bytes: &[u8]| {
            for bytes in bytes.chunks(CHECKED_BYTES) {
                if let Storage::Plain(dtype) = self.storage
                    && !dtype.are_finite(bytes)
                {
                    return Err(Error::weights_not_finite(self.file.as_deref(), &self.name));
                }
                sink(bytes)?;
            }
            Ok(())
        };
        match &self.source {
            Source::Made(host) => checked(host.bytes.as_ref()),
            Source::Cut(stored, slice) => slice.write(&stored.read()?, &mut checked),
            Source::Kept(stored) if stored.is_plain() => checked(stored.bytes.as_ref()),
            Source::Kept(stored) if stored.heads.is_some() => checked(stored.read()?.bytes.as_ref()),
            // Such as the embedding, the largest matrix of some models.
            Source::Kept(stored) => (0..stored.rows())
                .step_by(SCALED_ROWS)
                .try_for_each(|first| checked(stored.read_rows(first..(first + SCALED_ROWS).min(stored.rows()))?.bytes.as_ref())),
        }
    }
}

/// The pruned model.
pub struct CompactModel {
    /// Its structure.
    pub architecture: Architecture,
    /// Its tensors, in the order of the dense model's data, new biases behind their projections.
    pub tensors: Vec<CompactTensor>,
}

impl CompactModel {
    /// A model folder as it is.
    #[must_use]
    pub fn whole(model: &Model) -> Self {
        let parts = parts(&model.architecture);
        let tensors = model.tensors.entries().iter().map(|stored| kept(stored, parts.get(&stored.name).map(|&(layer, t)| (layer, t.part))));
        Self { architecture: model.architecture.clone(), tensors: tensors.collect() }
    }

    /// What a plan leaves, with its changes.
    pub fn pruned(model: &Model, plan: &Plan, Changes { biases, replaced }: &Changes) -> Result<Self> {
        let parts = parts(&model.architecture);
        let mut tensors = Vec::new();
        for stored in model.tensors.entries() {
            let Some(&(layer, tensor)) = parts.get(&stored.name) else {
                tensors.push(kept(stored, None));
                continue;
            };
            let own = match replaced.get(&(layer, tensor.part)) {
                Some(host) => whole(layer, tensor.part, host),
                None => kept_part(model, plan, biases, layer, tensor, stored)?,
            };
            tensors.push(own);
            let Some(site) = Site::BOTH.into_iter().find(|site| site.writer().0 == tensor.part) else { continue };
            let part = site.writer().1;
            if parts.contains_key(&part.name(layer)) {
                continue;
            }
            if let Some(host) = replaced.get(&(layer, part)) {
                tensors.push(whole(layer, part, host));
            } else if let Some(values) = biases.get(layer).and_then(|biases| biases[site].as_deref()) {
                tensors.push(bias(part, layer, stored.read_rows(0..0)?.dtype, values)?);
            }
        }
        Ok(Self { architecture: plan.pruned(&model.architecture), tensors })
    }

    /// The same model with the biases that `architecture` has besides its own, all zero.
    #[must_use]
    pub fn with_zero_biases(self, architecture: &Architecture) -> Self {
        let present: HashSet<(usize, Part)> = self.tensors.iter().filter_map(|t| t.part).collect();
        let mut tensors = Vec::new();
        for tensor in self.tensors {
            let behind = tensor.part.and_then(|(layer, part)| Some((layer, part.bias()?)));
            let dtype = if let Storage::Plain(dtype) = tensor.storage { dtype } else { Dtype::F32 };
            tensors.push(tensor);
            let Some((layer, part)) = behind.filter(|place| !present.contains(place)) else { continue };
            if let Some(missing) = architecture.layer_tensors(layer).into_iter().find(|t| t.part == part) {
                let bytes = vec![0; missing.columns * dtype.size()];
                tensors.push(whole(layer, part, &HostTensor::owning(bytes, dtype, 1, missing.columns)));
            }
        }
        Self { architecture: architecture.clone(), tensors }
    }

    /// Brings a layer to the device, without a file.
    pub fn layer<E: Engine>(&self, engine: &E, layer: usize) -> Result<LayerWeights<E>> {
        LayerWeights::upload(engine, &self.architecture, layer, |part| {
            let tensor = self.tensors.iter().find(|tensor| tensor.part == Some((layer, part)));
            tensor.map(CompactTensor::read).transpose()
        })
    }

    /// Parameters of the whole model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(CompactTensor::parameters).sum()
    }
}

/// The tensors of all layers by their names.
fn parts(architecture: &Architecture) -> HashMap<String, (usize, LayerTensor)> {
    let layers = 0..architecture.layers.len();
    layers.flat_map(|layer| architecture.layer_tensors(layer).into_iter().map(move |t| (t.part.name(layer), (layer, t)))).collect()
}

fn kept(stored: &StoredTensor, part: Option<(usize, Part)>) -> CompactTensor {
    let (name, storage, shape) = (stored.name.clone(), stored.storage.clone(), stored.shape.clone());
    CompactTensor { name, part, storage, shape, file: Some(stored.file.clone()), source: Source::Kept(stored.clone()) }
}

/// A part that the plan cuts, or a bias that takes up what was removed.
fn kept_part(
    model: &Model,
    plan: &Plan,
    biases: &[LayerBiases],
    layer: usize,
    tensor: LayerTensor,
    stored: &StoredTensor,
) -> Result<CompactTensor> {
    let Some(site) = Site::BOTH.into_iter().find(|site| site.writer().1 == tensor.part) else {
        return Ok(cut(stored, layer, tensor, &plan.layers[layer], model.architecture.head_dim, plan.settings.mask_only));
    };
    let host = stored.read_finite()?;
    let added = biases.get(layer).and_then(|biases| biases[site].as_deref());
    let values: Vec<f32> = host.to_f32().iter().enumerate().map(|(i, b)| b + added.map_or(0.0, |a| a[i])).collect();
    bias(tensor.part, layer, host.dtype, &values)
}

/// A tensor that was made elsewhere, complete.
fn whole(layer: usize, part: Part, host: &HostTensor) -> CompactTensor {
    CompactTensor {
        name: part.name(layer),
        part: Some((layer, part)),
        storage: Storage::Plain(host.dtype),
        shape: LayerTensor { part, rows: host.rows, columns: host.columns }.shape(),
        file: None,
        source: Source::Made(host.clone()),
    }
}

fn cut(stored: &StoredTensor, layer: usize, tensor: LayerTensor, kept: &PlannedLayer, head_dim: usize, mask_only: bool) -> CompactTensor {
    use Part::*;
    let whole = Slice::whole([tensor.rows, tensor.columns]).zeroing(mask_only);
    let slice = match tensor.part {
        QueryProjection => whole.rows(&kept.heads, head_dim),
        KeyProjection | ValueProjection => whole.rows(&kept.kv_heads, head_dim),
        KeyBias | ValueBias => whole.columns(&kept.kv_heads, head_dim),
        QueryBias | OutputProjection => whole.columns(&kept.heads, head_dim),
        GateProjection | UpProjection => whole.rows(&kept.neurons, 1),
        GateBias | UpBias | DownProjection => whole.columns(&kept.neurons, 1),
        InputNorm | PostAttentionNorm | QueryNorm | KeyNorm | OutputBias | DownBias => whole,
    };
    let [rows, columns] = slice.shape();
    CompactTensor {
        name: tensor.part.name(layer),
        part: Some((layer, tensor.part)),
        storage: stored.storage.clone(),
        shape: LayerTensor { part: tensor.part, rows, columns }.shape(),
        file: Some(stored.file.clone()),
        source: Source::Cut(stored.clone(), slice),
    }
}

fn bias(part: Part, layer: usize, dtype: Dtype, values: &[f32]) -> Result<CompactTensor> {
    let overflows = || {
        let name = part.name(layer);
        Error::NotFinite(format!("tensor `{name}`: a compensation bias overflows {}; use --compensation none", dtype.name()))
    };
    let bytes = narrowed(dtype, values).ok_or_else(overflows)?;
    Ok(whole(layer, part, &HostTensor::owning(bytes, dtype, 1, values.len())))
}
