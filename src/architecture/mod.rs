//! Model families: which tensor plays which part, its shape, rotary embedding, norms, biases, and the sizes of every layer.
//!
//! A family is one small file that fills in an [`Architecture`] from `config.json`. Nothing here computes.

mod common;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod relatives;
mod rope;
mod site;
mod smollm3;
mod tensors;

pub use common::{PRUNED_KEY, per_layer_config};
pub use relatives::Relative;
pub use rope::{LongWindows, ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, Rope};
pub use site::{PerSite, Site};
pub use tensors::{LayerTensor, Part};

use crate::checkpoint::Config;
use crate::error::Result;

/// Sizes and switches of one decoder layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Neurons of the MLP.
    pub intermediate_size: usize,
    /// Keys that a query sees, itself included; `None` sees all before it.
    pub sliding_window: Option<usize>,
    /// Whether queries and keys are turned by their position.
    pub rotary: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// Biases on the gate and up projections.
    pub gate_up_bias: bool,
    /// Bias on the down projection.
    pub down_bias: bool,
    /// RMS norms over each query and key head.
    pub qk_norm: bool,
}

impl LayerShape {
    /// A layer with rotary embedding, and neither biases nor head norms nor a sliding window.
    #[must_use]
    pub fn plain(heads: usize, key_value_heads: usize, intermediate_size: usize) -> Self {
        Self {
            heads,
            key_value_heads,
            intermediate_size,
            sliding_window: None,
            rotary: true,
            qkv_bias: false,
            o_bias: false,
            gate_up_bias: false,
            down_bias: false,
            qk_norm: false,
        }
    }

    /// Whether it is one of a LLaMA, with biases or without: it turns its heads, and has no norms over them.
    #[must_use]
    pub fn is_llama(&self) -> bool {
        self.rotary && !self.qk_norm
    }

    /// Query heads that share a key-value head.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.heads / self.key_value_heads
    }
}

/// Everything about a model's structure.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family as `architectures` names it.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Entries of the vocabulary.
    pub vocabulary_size: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the language-model head is the embedding matrix.
    pub tied_embeddings: bool,
    /// The decoder layers.
    pub layers: Vec<LayerShape>,
}

type Describe = fn(&Config) -> Result<Architecture>;

/// Families and their files; those that are one of these in other words are in `relatives`. What else a new one needs, CONTRIBUTING.md says.
const FAMILIES: [(&str, Describe); 5] = [
    (llama::FAMILY, llama::describe),
    (mistral::FAMILY, mistral::describe),
    (qwen2::FAMILY, qwen2::describe),
    (qwen3::FAMILY, qwen3::describe),
    (smollm3::FAMILY, smollm3::describe),
];

/// The family that a configuration names.
fn family(config: &Config) -> Option<&str> {
    let own = || config.get("architectures").and_then(|list| list.get(0)).and_then(|name| name.as_str());
    let pruned = config.get(PRUNED_KEY).and_then(|pruned| pruned.get("architecture")).and_then(|name| name.as_str());
    pruned.or_else(own)
}

impl Architecture {
    /// Reads the structure from a configuration.
    ///
    /// # Errors
    /// If the family is not supported (the message lists those that are) or a value is missing or out of range.
    pub fn describe(config: &Config) -> Result<Self> {
        let relative = Relative::of(config)?;
        let config = relative.as_ref().map_or(config, |relative| &relative.config);
        let supported = || FAMILIES.iter().map(|known| known.0).chain(relatives::names()).collect::<Vec<_>>().join(", ");
        let Some(name) = family(config) else {
            return Err(config.error(format_args!("`architectures` is missing; supported are {}", supported())));
        };
        let Some((_, describe)) = FAMILIES.iter().find(|f| f.0 == name) else {
            return Err(config.error(format_args!("the model family {name} is not supported; supported are {}", supported())));
        };
        if let Some(quantisation) = config.get("quantization_config") {
            let method = quantisation.get("quant_method").and_then(|m| m.as_str()).unwrap_or("unnamed");
            let message = format!("the weights are quantised ({method}); prune the original f32, f16 or bf16 model, then quantise");
            return Err(config.error(message));
        }
        if let Some(activation) = config.optional_text("hidden_act")?
            && activation != "silu"
        {
            return Err(config.error(format_args!("the activation `{activation}` is not supported; supported is silu")));
        }
        let mut architecture = describe(config)?;
        common::apply_pruned_sizes(config, &mut architecture)?;
        Ok(architecture)
    }

    /// Whether all layers have the same numbers of heads, key-value heads and neurons.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        let sizes = |layer: &LayerShape| (layer.heads, layer.key_value_heads, layer.intermediate_size);
        self.layers.iter().all(|layer| sizes(layer) == sizes(&self.layers[0]))
    }

    /// Parameters that pruning can remove: the matrices of attention and MLP, biases not counted.
    #[must_use]
    pub fn prunable_parameters(&self) -> u64 {
        (0..self.layers.len())
            .map(|i| {
                self.layers[i].key_value_heads as u64 * self.unit_parameters(i)
                    + self.layers[i].intermediate_size as u64 * self.neuron_parameters()
            })
            .sum()
    }

    /// Parameters of an attention unit of a layer: a key-value head with its query heads.
    #[must_use]
    pub fn unit_parameters(&self, layer: usize) -> u64 {
        ((2 * self.layers[layer].group_size() + 2) * self.head_dim * self.hidden_size) as u64
    }

    /// Parameters of an MLP neuron.
    #[must_use]
    pub fn neuron_parameters(&self) -> u64 {
        3 * self.hidden_size as u64
    }
}
