//! Mistral: LLaMA with a sliding window in every layer.

use super::{Architecture, common};
use crate::checkpoint::Config;
use crate::error::Result;

pub const FAMILY: &str = "MistralForCausalLM";

pub fn describe(config: &Config) -> Result<Architecture> {
    let mut architecture = common::decoder(config, FAMILY)?;
    let window = common::window_or_default(config)?;
    for layer in &mut architecture.layers {
        layer.sliding_window = window;
    }
    Ok(architecture)
}
