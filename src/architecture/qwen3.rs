//! Qwen3 (dense): RMS norms on each query and key head; optionally attention biases and a sliding window in some layers.

use super::{Architecture, common};
use crate::checkpoint::Config;
use crate::error::Result;

pub const FAMILY: &str = "Qwen3ForCausalLM";

pub fn describe(config: &Config) -> Result<Architecture> {
    let mut architecture = common::decoder(config, FAMILY)?;
    let attention_bias = config.flag("attention_bias", false)?;
    for layer in &mut architecture.layers {
        layer.qk_norm = true;
        (layer.qkv_bias, layer.o_bias) = (attention_bias, attention_bias);
    }
    common::apply_layer_windows(config, &mut architecture)?;
    Ok(architecture)
}
