//! The pruned model folder: configuration, weights in shards, the files beside them, and the plan.

use super::slice::Slice;
use crate::architecture::{Architecture, LayerTensor, PRUNED_KEY, Part, pruned_layers};
use crate::checkpoint::{OutputFolder, SafetensorsWriter, TensorHeader, files};
use crate::compensation::LayerBiases;
use crate::engine::{Dtype, HostTensor};
use crate::error::{Error, Result};
use crate::forward::Site;
use crate::interrupt;
use crate::model::Model;
use crate::plan::{Plan, PlannedLayer};
use crate::progress::Progress;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Weights above this are split over several files.
const SHARD_BYTES: usize = 5_000_000_000;

/// Files beside the weights that a model needs to be used, or that its licence asks to pass on.
const CARRIED: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "USE_POLICY.md",
];
/// Beginnings of names of licence files.
const LICENCES: [&str; 3] = ["LICENSE", "LICENCE", "NOTICE"];

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct Compacted {
    /// Parameters of the dense model.
    pub parameters_before: u64,
    /// Parameters of the pruned model, biases included.
    pub parameters_after: u64,
    /// Bytes of the weight files.
    pub weight_bytes: u64,
}

/// Where a tensor's data comes from.
enum Source {
    /// A part of a layer, cut.
    Cut(HostTensor, Slice),
    /// Numbers made here.
    Made(Vec<u8>),
    /// A tensor that no pruning touches, as it is.
    Kept(crate::engine::SharedBytes),
}

/// Writes the pruned model to `output`; it appears there only when complete.
pub fn compact(model: &Model, plan: &Plan, biases: &[LayerBiases], output: OutputFolder, progress: &dyn Progress) -> Result<Compacted> {
    let pruned = plan.pruned(&model.architecture);
    let tensors = tensors(model, plan, biases)?;
    let folder = output.path();
    write_weights(folder, &tensors, progress)?;
    write_config(model, &pruned, folder)?;
    carry_files(&model.path, folder)?;
    files::write_json(&folder.join("plan.json"), plan)?;
    output.commit()?;
    let parameters = |t: &(TensorHeader, Source)| t.0.shape.iter().product::<usize>() as u64;
    Ok(Compacted {
        parameters_before: model.parameters(),
        parameters_after: tensors.iter().map(parameters).sum(),
        weight_bytes: tensors.iter().map(|t| t.0.bytes as u64).sum(),
    })
}

/// All tensors of the pruned model, in the order of the dense one's data, new biases behind their projections.
fn tensors(model: &Model, plan: &Plan, biases: &[LayerBiases]) -> Result<Vec<(TensorHeader, Source)>> {
    let mut parts: HashMap<String, (usize, LayerTensor)> = HashMap::new();
    for layer in 0..model.architecture.layers.len() {
        parts.extend(model.architecture.layer_tensors(layer).into_iter().map(|t| (t.part.name(layer), (layer, t))));
    }
    let mut result = Vec::new();
    for file in model.tensors.files() {
        for name in file.names() {
            let Some(&(layer, tensor)) = parts.get(name) else {
                let info = file.info(name).expect("the name is from this file");
                let bytes = file.bytes(name)?;
                let header = TensorHeader {
                    name: name.to_string(),
                    dtype: info.dtype.to_string(),
                    shape: info.shape.clone(),
                    bytes: bytes.as_ref().len(),
                };
                result.push((header, Source::Kept(bytes)));
                continue;
            };
            let host = model.layer_tensor(layer, tensor)?;
            let own = |part: Part| parts.contains_key(&part.name(layer));
            match tensor.part {
                Part::OutputBias | Part::DownBias => {
                    let site = if tensor.part == Part::OutputBias { Site::Attention } else { Site::Mlp };
                    let added = biases[layer].site(site);
                    let values: Vec<f32> = host.to_f32().iter().enumerate().map(|(i, b)| b + added.map_or(0.0, |a| a[i])).collect();
                    result.push(bias(tensor.part, layer, host.dtype, &values)?);
                }
                part => {
                    let dtype = host.dtype;
                    result.push(cut(host, layer, tensor, &plan.layers[layer], model.architecture.head_dim, plan.settings.mask_only));
                    let made = match part {
                        Part::OutputProjection => (Site::Attention, Part::OutputBias),
                        Part::DownProjection => (Site::Mlp, Part::DownBias),
                        _ => continue,
                    };
                    if let (Some(added), false) = (biases[layer].site(made.0), own(made.1)) {
                        result.push(bias(made.1, layer, dtype, added)?);
                    }
                }
            }
        }
    }
    Ok(result)
}

fn cut(
    host: HostTensor,
    layer: usize,
    tensor: LayerTensor,
    kept: &PlannedLayer,
    head_dim: usize,
    mask_only: bool,
) -> (TensorHeader, Source) {
    use Part::*;
    let whole = Slice::whole(&host).zeroing(mask_only);
    let slice = match tensor.part {
        QueryProjection => whole.rows(&kept.heads, head_dim),
        KeyProjection | ValueProjection => whole.rows(&kept.kv_heads, head_dim),
        KeyBias | ValueBias => whole.columns(&kept.kv_heads, head_dim),
        QueryBias | OutputProjection => whole.columns(&kept.heads, head_dim),
        GateProjection | UpProjection => whole.rows(&kept.neurons, 1),
        GateBias | UpBias | DownProjection => whole.columns(&kept.neurons, 1),
        InputNorm | PostAttentionNorm | QueryNorm | KeyNorm | OutputBias | DownBias => whole,
    };
    let (rows, columns) = slice.shape(&host);
    let header = TensorHeader {
        name: tensor.part.name(layer),
        dtype: host.dtype.safetensors_name().into(),
        shape: LayerTensor { part: tensor.part, rows, columns }.shape(),
        bytes: rows * columns * host.dtype.size(),
    };
    (header, Source::Cut(host, slice))
}

fn bias(part: Part, layer: usize, dtype: Dtype, values: &[f32]) -> Result<(TensorHeader, Source)> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.size());
    values.iter().for_each(|&value| dtype.push(value, &mut bytes));
    let name = part.name(layer);
    if values.iter().any(|&v| !dtype.round(v).is_finite()) {
        return Err(Error::NotFinite(format!(
            "tensor `{name}`: a compensation bias overflows {}; use --compensation none",
            dtype.safetensors_name()
        )));
    }
    let header = TensorHeader { name, dtype: dtype.safetensors_name().into(), shape: vec![values.len()], bytes: bytes.len() };
    Ok((header, Source::Made(bytes)))
}

fn write_weights(folder: &Path, tensors: &[(TensorHeader, Source)], progress: &dyn Progress) -> Result<()> {
    let mut shards: Vec<Vec<&(TensorHeader, Source)>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled + tensor.0.bytes > SHARD_BYTES && filled > 0 {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.0.bytes;
        shards.last_mut().expect("there is a first shard").push(tensor);
    }
    progress.start("writing", "bytes", tensors.iter().map(|t| t.0.bytes as u64).sum());
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut weight_map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_string(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let headers: Vec<TensorHeader> = shard.iter().map(|t| t.0.clone()).collect();
        let mut writer = SafetensorsWriter::create(&folder.join(&name), &headers, &metadata)?;
        for (header, source) in shard {
            interrupt::check()?;
            match source {
                Source::Cut(host, slice) => slice.write(host, &mut writer)?,
                Source::Made(bytes) => writer.write(bytes)?,
                Source::Kept(bytes) => writer.write(bytes.as_ref())?,
            }
            weight_map.insert(header.name.clone(), name.clone());
            progress.advance(header.bytes as u64);
        }
        writer.finish()?;
    }
    if shards.len() > 1 {
        let total: usize = tensors.iter().map(|t| t.0.bytes).sum();
        let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        files::write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    progress.finish();
    Ok(())
}

fn write_config(model: &Model, pruned: &Architecture, folder: &Path) -> Result<()> {
    let mut values = model.config.values().clone();
    values.insert(PRUNED_KEY.into(), pruned_layers(pruned));
    files::write_json(&folder.join("config.json"), &values)
}

fn carry_files(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(Error::io(from, "cannot list"))?;
    for entry in entries {
        let name = entry.map_err(Error::io(from, "cannot list"))?.file_name();
        let text = name.to_string_lossy();
        let path = from.join(&name);
        if path.is_file() && (CARRIED.contains(&text.as_ref()) || LICENCES.iter().any(|l| text.starts_with(l))) {
            // The content alone: a source may be read-only, its copy should not be.
            let content = std::fs::read(&path).map_err(Error::io(&path, "cannot read"))?;
            files::write(&to.join(&name), content)?;
        }
    }
    Ok(())
}
