//! Mistral: LLaMA with a sliding window in every layer.

use super::{Architecture, common};
use crate::checkpoint::Config;
use crate::error::Result;

pub const FAMILY: &str = "MistralForCausalLM";

/// The window of a configuration that says nothing of it, as in transformers; `null` is none.
const DEFAULT_WINDOW: usize = 4096;

pub fn describe(config: &Config) -> Result<Architecture> {
    let mut architecture = common::decoder(config, FAMILY)?;
    let is_said = config.values().contains_key("sliding_window");
    let window = if is_said { config.optional_size("sliding_window")? } else { Some(DEFAULT_WINDOW) };
    for layer in &mut architecture.layers {
        layer.sliding_window = window;
    }
    Ok(architecture)
}
