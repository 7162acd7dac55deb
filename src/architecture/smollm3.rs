//! SmolLM3: LLaMA without rotary embedding in some layers, one of four unless the configuration says which.

use super::{Architecture, llama};
use crate::checkpoint::Config;
use crate::error::Result;
use serde_json::Value;

pub const FAMILY: &str = "SmolLM3ForCausalLM";

/// Of so many layers the last turns nothing.
const INTERVAL: usize = 4;

pub fn describe(config: &Config) -> Result<Architecture> {
    if config.flag("use_sliding_window", false)? && config.optional_size("sliding_window")?.is_some() {
        return Err(config.error("`use_sliding_window`: a SmolLM3 with a sliding window is not supported"));
    }
    if !super::rope::says_theta(config)? {
        return Err(config.error("`rope_theta` is missing"));
    }
    let mut architecture = Architecture { family: FAMILY, ..llama::describe(config)? };
    // Unlike other families', its head is the embedding matrix unless it is said not to be.
    architecture.tied_embeddings = config.flag("tie_word_embeddings", true)?;
    let interval = config.optional_size("no_rope_layer_interval")?.unwrap_or(INTERVAL);
    let listed = config.get("no_rope_layers");
    let layers = architecture.layers.len();
    if listed.and_then(Value::as_array).is_some_and(|list| list.len() > layers) {
        return Err(config.error(format_args!("`no_rope_layers` has more than the {layers} layers")));
    }
    for (index, layer) in architecture.layers.iter_mut().enumerate() {
        layer.rotary = match listed {
            // In spite of the key's name, 1 is a layer that turns.
            Some(list) => {
                let turns = list.get(index).and_then(Value::as_u64).filter(|&turns| turns <= 1);
                turns.ok_or_else(|| config.error(format_args!("`no_rope_layers` has neither 0 nor 1 for layer {index}")))? == 1
            }
            None => !(index + 1).is_multiple_of(interval),
        };
    }
    Ok(architecture)
}
