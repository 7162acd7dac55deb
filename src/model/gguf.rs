//! A GGUF file as a model: its keys as `config.json` would say it, its tensors under their checkpoint names.

use super::{EMBEDDING, FINAL_NORM, HEAD, Model};
use crate::architecture::{Architecture, PRUNED_KEY, Part, ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT};
use crate::checkpoint::gguf::{GgufFile, GgufTensor, Value};
use crate::checkpoint::{Config, HeadRows, StoredTensor, Tensors};
use crate::error::Result;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Architectures that can be read, whether their heads' rows are interleaved, and the family they are an instance of.
const ARCHITECTURES: [(&str, bool, &str); 4] = [
    ("llama", true, "LlamaForCausalLM"),
    ("deci", true, "LlamaForCausalLM"),
    ("qwen3", false, "Qwen3ForCausalLM"),
    ("smollm3", true, "SmolLM3ForCausalLM"),
];

pub fn open(path: &Path) -> Result<Model> {
    let file = GgufFile::open(path)?;
    let name = file.get("general.architecture").and_then(Value::as_text).unwrap_or_default();
    let Some(&(name, interleaved, family)) = ARCHITECTURES.iter().find(|known| known.0 == name) else {
        let known = ARCHITECTURES.map(|known| known.0).join(", ");
        return Err(file.error(format_args!("holds a model of the architecture `{name}`; those that can be read are {known}")));
    };
    let tensors: HashMap<&str, &GgufTensor> = file.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let keys = Keys { file: &file, prefix: name };
    keys.refuse_others()?;
    let config = Config::new(path.to_owned(), config(&keys, &tensors, family)?);
    let mut architecture = Architecture::describe(&config)?;
    let tensors = rename(&file, &architecture, interleaved)?;
    if let Some(factors) = keys.rope_factors(ROPE_FACTORS)? {
        let pairs = architecture.rope.frequencies.len();
        if factors.len() != pairs || !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            return Err(file.error(format_args!(
                "tensor `{ROPE_FACTORS}` must hold {pairs} positive numbers, one for each pair of a head's channels"
            )));
        }
        architecture.rope.frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= f64::from(factor));
    }
    let amplitude = keys.number("rope.scaling.attn_factor").unwrap_or(1.0);
    if !(amplitude.is_finite() && amplitude > 0.0) {
        return Err(file.error(format_args!("says {amplitude} under `{name}.rope.scaling.attn_factor`, which must be positive")));
    }
    architecture.rope.amplitude *= amplitude;
    let embedded_tokenizer = file.get("tokenizer.huggingface.json").and_then(Value::as_text).map(str::to_owned);
    Ok(Model { path: path.to_owned(), config, architecture, tensors, embedded_tokenizer, remark: None })
}

/// The keys of one architecture.
struct Keys<'a> {
    file: &'a GgufFile,
    prefix: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.file.get(&format!("{}.{key}", self.prefix))
    }

    fn size(&self, key: &str) -> Result<u64> {
        self.get(key).and_then(Value::as_size).ok_or_else(|| self.file.error(format_args!("has no size under `{}.{key}`", self.prefix)))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_number()
    }

    /// Refuses what is computed otherwise than here. What the value may be is what a missing key means.
    fn refuse_others(&self) -> Result<()> {
        const HARMLESS: [(&str, f64); 9] = [
            ("expert_count", 0.0),
            ("use_parallel_residual", 0.0),
            ("logit_scale", 1.0),
            ("embedding_scale", 1.0),
            ("residual_scale", 1.0),
            ("attention.scale", 0.0),
            ("attention.clamp_kqv", 0.0),
            ("attn_logit_softcapping", 0.0),
            ("rope.scale_linear", 1.0),
        ];
        for (key, harmless) in HARMLESS {
            let Some(value) = self.get(key) else { continue };
            let number = value.as_number().or_else(|| value.as_size().map(|size| size as f64));
            if number.or((*value == Value::Bool(false)).then_some(0.0)) != Some(harmless) {
                return Err(self.file.error(format_args!("has the key `{}.{key}`: such models are not supported", self.prefix)));
            }
        }
        match self.file.get("split.count").and_then(Value::as_size) {
            Some(count) if count > 1 => {
                Err(self.file.error(format_args!("is one of {count} parts of a model; merge them first (llama-gguf-split)")))
            }
            _ => Ok(()),
        }
    }

    /// Fails if a size is given that must be another's.
    fn same(&self, key: &str, size: u64, what: &str) -> Result<()> {
        match self.get(key).map(Value::as_size) {
            Some(given) if given != Some(size) => Err(self
                .file
                .error(format_args!("does not say {size} under `{}.{key}`, as {what} has it; such models are not supported", self.prefix))),
            _ => Ok(()),
        }
    }

    /// The numbers of a tensor that divides rotary frequencies, if there is one.
    fn rope_factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let tensor = self.file.tensors.iter().find(|tensor| tensor.name == name);
        tensor.map(|tensor| Ok(stored(self.file, tensor, name.into(), None).read()?.to_f32())).transpose()
    }

    /// What scales the rotary frequencies, as `config.json` would say it.
    fn rope_scaling(&self) -> Result<Option<Json>> {
        let kind = self.get("rope.scaling.type").and_then(Value::as_text).filter(|&kind| kind != "none");
        let Some(kind) = kind else { return Ok(None) };
        Ok(Some(json!({
            "rope_type": kind,
            "factor": self.number("rope.scaling.factor"),
            "original_max_position_embeddings": self.get("rope.scaling.original_context_length").and_then(Value::as_size),
            "short_factor": self.rope_factors(ROPE_FACTORS_SHORT)?,
            "long_factor": self.rope_factors(ROPE_FACTORS_LONG)?,
            // Of these, what multiplies cosines and sines is a key of its own.
            "attention_factor": (kind == "longrope").then_some(1.0),
        })))
    }

    /// A size for every layer: one for all, or a list.
    fn sizes(&self, key: &str, layers: usize) -> Result<Vec<u64>> {
        let sizes = match self.get(key) {
            Some(Value::Array(_, items)) => items.iter().map(Value::as_size).collect::<Option<Vec<u64>>>(),
            Some(value) => value.as_size().map(|size| vec![size; layers]),
            None => None,
        };
        let wrong = || self.file.error(format_args!("has no sizes of {layers} layers under `{}.{key}`", self.prefix));
        sizes.filter(|sizes| sizes.len() == layers).ok_or_else(wrong)
    }
}

/// `config.json` as a folder of this model would have it.
fn config(keys: &Keys, tensors: &HashMap<&str, &GgufTensor>, family: &str) -> Result<Map<String, Json>> {
    let layers = keys.size("block_count")? as usize;
    if layers > tensors.len() {
        return Err(keys.file.error(format_args!("has {layers} layers but only {} tensors", tensors.len())));
    }
    let heads = keys.sizes("attention.head_count", layers)?;
    let kv_heads = keys.sizes("attention.head_count_kv", layers).or_else(|_| keys.sizes("attention.head_count", layers))?;
    let widths = keys.sizes("feed_forward_length", layers)?;
    let (Some(&first_heads), Some(embedding)) = (heads.first(), tensors.get("token_embd.weight")) else {
        return Err(keys.file.error("has no layers or no tensor `token_embd.weight`"));
    };
    let has = |part: Part, layer: usize| tensors.contains_key(part.gguf_name(layer).as_str());
    let hidden = keys.size("embedding_length")?;
    let head_dim = keys.size("attention.key_length").unwrap_or(hidden / first_heads.max(1));
    keys.same("attention.value_length", head_dim, "a key")?;
    keys.same("rope.dimension_count", head_dim, "a head")?;
    keys.same("vocab_size", embedding.shape[0] as u64, "`token_embd.weight`")?;
    let eps = keys.number("attention.layer_norm_rms_epsilon");
    let eps = eps.ok_or_else(|| keys.file.error(format_args!("has no number under `{}.attention.layer_norm_rms_epsilon`", keys.prefix)))?;
    let layer = |layer: usize| {
        json!({
            "num_attention_heads": heads[layer],
            "num_key_value_heads": kv_heads[layer],
            "intermediate_size": widths[layer],
            "o_proj_bias": has(Part::OutputBias, layer),
            "down_proj_bias": has(Part::DownBias, layer),
        })
    };
    let Json::Object(config) = json!({
        "architectures": [family],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": first_heads,
        "num_key_value_heads": kv_heads[0],
        "intermediate_size": widths[0],
        "head_dim": head_dim,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": keys.size("context_length")?,
        "rms_norm_eps": eps,
        "rope_theta": keys.number("rope.freq_base"),
        "rope_scaling": keys.rope_scaling()?,
        "tie_word_embeddings": !tensors.contains_key("output.weight"),
        "attention_bias": has(Part::QueryBias, 0),
        "mlp_bias": has(Part::GateBias, 0),
        PRUNED_KEY: {"per_layer_config": (0..layers).map(|index| (index.to_string(), layer(index))).collect::<Map<_, _>>()},
    }) else {
        unreachable!("an object was written")
    };
    Ok(config)
}

/// All tensors under their checkpoint names.
fn rename(file: &GgufFile, architecture: &Architecture, interleaved: bool) -> Result<Tensors> {
    let mut names: HashMap<String, (String, Option<HeadRows>)> =
        [("token_embd.weight", EMBEDDING), ("output_norm.weight", FINAL_NORM), ("output.weight", HEAD)]
            .map(|(gguf, name)| (gguf.to_string(), (name.to_string(), None)))
            .into();
    for layer in 0..architecture.layers.len() {
        for part in Part::ALL {
            let heads = (interleaved && part.is_rotary()).then(|| HeadRows::interleaved(architecture.head_dim));
            names.insert(part.gguf_name(layer), (part.name(layer), heads));
        }
    }
    let mut entries = Vec::new();
    let factors = [ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT];
    for tensor in file.tensors.iter().filter(|t| !factors.contains(&t.name.as_str())) {
        let (name, heads) =
            names.get(&tensor.name).ok_or_else(|| file.error(format_args!("holds the unknown tensor `{}`", tensor.name)))?;
        if heads.is_some_and(|heads| tensor.shape[0] % heads.head_dim != 0) {
            return Err(file.error(format_args!("tensor `{}` is not made of whole heads", tensor.name)));
        }
        entries.push(stored(file, tensor, name.clone(), *heads));
    }
    Tensors::new(&file.path, entries, file.length)
}

fn stored(file: &GgufFile, tensor: &GgufTensor, name: String, heads: Option<HeadRows>) -> StoredTensor {
    let (storage, shape, bytes) = (tensor.storage.clone(), tensor.shape.clone(), tensor.bytes.clone());
    StoredTensor { name, storage, shape, bytes, heads, scale: 1.0, file: Arc::from(file.path.as_path()) }
}
