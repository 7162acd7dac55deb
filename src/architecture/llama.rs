//! LLaMA 1, 2 and 3 and all that share their structure: Vicuna, TinyLlama, SmolLM, ...

use super::{Architecture, common};
use crate::checkpoint::Config;
use crate::error::Result;

pub const FAMILY: &str = "LlamaForCausalLM";

pub fn describe(config: &Config) -> Result<Architecture> {
    let mut architecture = common::decoder(config, FAMILY)?;
    let attention_bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    for layer in &mut architecture.layers {
        (layer.qkv_bias, layer.o_bias) = (attention_bias, attention_bias);
        (layer.gate_up_bias, layer.down_bias) = (mlp_bias, mlp_bias);
    }
    Ok(architecture)
}
