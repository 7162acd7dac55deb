//! A model folder as Hugging Face distributes it: configuration, weights in shards, tokenizer, and the code that loads layers of
//! different sizes where the library's own classes cannot.

mod form;

use crate::checkpoint::{Config, SafetensorsWriter, TensorHeader};
use crate::compaction::{CompactModel, CompactTensor};
use crate::disk::files;
use crate::error::{Error, Result};
use crate::export::folder::{CARRIED, CODE, is_licence, weights_file};
use crate::interrupt;
use crate::model::Model;
use crate::progress::Progress;
use form::Form;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What transformers knows of a tokenizer besides `tokenizer.json`.
const TOKENIZER_SETTINGS: &str = "tokenizer_config.json";
/// Model types whose own tokenizer is the class that their folders declare.
const BY_DECLARED_CLASS: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// Weights above this are split over several files.
const SHARD_BYTES: usize = 5_000_000_000;

/// What a folder holds.
pub struct Written {
    /// Parameters, with the zero biases that a class asks for.
    pub parameters: u64,
    /// Bytes of the files of weights.
    pub bytes: u64,
    /// What the user should know.
    pub note: Option<String>,
}

/// Writes the folder's files.
pub fn write(model: &Model, compact: CompactModel, folder: &Path, progress: &dyn Progress) -> Result<Written> {
    let form = form::form(&model.config, &compact.architecture)?;
    let compact = compact.with_zero_biases(&form.architecture);
    let bytes = write_weights(folder, &compact.tensors, progress)?;
    files::write_json(&folder.join("config.json"), &form.config)?;
    if form.remote_code {
        files::write(&folder.join(CODE), form::CODE_TEXT)?;
    }
    carry(&model.path, folder, &|name| CARRIED.contains(&name))?;
    keep_tokenizer(&model.config, &form, folder)?;
    Ok(Written { parameters: compact.parameters(), bytes, note: form.note() })
}

/// Sees to it that transformers tokenises by `tokenizer.json` as it is, as it does for the source. It goes by the model type, and for types
/// that it does not know by the declared class, which for a Mistral or a Phi-3 is another one, and makes other tokens.
fn keep_tokenizer(source: &Config, form: &Form, folder: &Path) -> Result<()> {
    let model_type = source.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let path = folder.join(TOKENIZER_SETTINGS);
    if form.config.get("model_type").and_then(Value::as_str) == Some(model_type) || !folder.join("tokenizer.json").is_file() {
        return Ok(());
    }
    let mut settings = if path.is_file() { files::read_json(&path).unwrap_or(Value::Null) } else { json!({}) };
    // What is no list of settings was copied, and is nobody's.
    let Some(fields) = settings.as_object_mut() else { return Ok(()) };
    let declared = fields.get("tokenizer_class").is_some_and(|class| !class.is_null());
    if declared && BY_DECLARED_CLASS.contains(&model_type) {
        return Ok(());
    }
    fields.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    // Before version 5 that class gave `token_type_ids` as well, which these models do not take.
    fields.entry("model_input_names").or_insert(json!(["input_ids", "attention_mask"]));
    files::write_json(&path, &settings)
}

/// Copies the licence files of a model folder.
pub fn carry_licences(from: &Path, to: &Path) -> Result<()> {
    carry(from, to, &is_licence)
}

/// Writes the weights; returns the bytes of the files.
fn write_weights(folder: &Path, tensors: &[CompactTensor], progress: &dyn Progress) -> Result<u64> {
    let mut shards: Vec<Vec<&CompactTensor>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled + tensor.bytes() > SHARD_BYTES && filled > 0 {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.bytes();
        shards.last_mut().expect("there is a first shard").push(tensor);
    }
    let total: usize = tensors.iter().map(CompactTensor::bytes).sum();
    progress.start("writing", "bytes", total as u64);
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let (mut weight_map, mut written) = (BTreeMap::new(), 0);
    for (index, shard) in shards.iter().enumerate() {
        let name = weights_file(index + 1, shards.len());
        let headers: Vec<TensorHeader> = shard.iter().map(|t| header(t)).collect();
        let mut writer = SafetensorsWriter::create(&folder.join(&name), &headers, &metadata)?;
        for tensor in shard {
            interrupt::check()?;
            tensor.write(&mut |bytes| writer.write(bytes))?;
            weight_map.insert(tensor.name.clone(), name.clone());
            progress.advance(tensor.bytes() as u64);
        }
        writer.finish()?;
        written += files::size(&folder.join(&name))?;
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        files::write_json(&folder.join("model.safetensors.index.json"), &index)?;
    }
    progress.finish();
    Ok(written)
}

fn header(tensor: &CompactTensor) -> TensorHeader {
    TensorHeader { name: tensor.name.clone(), dtype: tensor.storage.name().into(), shape: tensor.shape.clone(), bytes: tensor.bytes() }
}

fn carry(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    for entry in std::fs::read_dir(from).map_err(Error::io(from, "cannot list"))? {
        let name = entry.map_err(Error::io(from, "cannot list"))?.file_name();
        let path = from.join(&name);
        if path.is_file() && wanted(&name.to_string_lossy()) {
            // The content alone: a source may be read-only, its copy should not be.
            let content = std::fs::read(&path).map_err(Error::io(&path, "cannot read"))?;
            files::write(&to.join(&name), content)?;
        }
    }
    Ok(())
}
