//! Qwen2 and Qwen2.5: biases on query, key and value; optionally a sliding window in some layers.

use super::{Architecture, common};
use crate::checkpoint::Config;
use crate::error::Result;

pub const FAMILY: &str = "Qwen2ForCausalLM";

pub fn describe(config: &Config) -> Result<Architecture> {
    let mut architecture = common::decoder(config, FAMILY)?;
    for layer in &mut architecture.layers {
        layer.qkv_bias = true;
    }
    common::apply_layer_windows(config, &mut architecture)?;
    Ok(architecture)
}
