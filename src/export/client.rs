//! What the programs that people run pruned models with can load, and the choices that follow.

use super::Format;
use crate::architecture::{Architecture, LayerShape};
use crate::plan::Compensation;

/// A program that will load the pruned model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// A GGUF file whose rows suit its quantisers
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// A model folder; layers may differ
    Transformers,
    /// A model folder whose layers are alike
    Vllm,
}

/// What is done for a client where the user has not said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Form of the output.
    pub format: Format,
    /// Whether all layers must be alike.
    pub uniform: bool,
    /// Multiple of kept neurons.
    pub round_neurons: usize,
    /// Multiple of kept query heads.
    pub round_heads: usize,
    /// Whether biases can be loaded.
    pub compensation: Compensation,
}

/// Numbers in a block of llama.cpp's K-quants.
const K_QUANT_BLOCK: usize = 256;
/// Numbers in a block of its other quantisers.
const QUANT_BLOCK: usize = 32;
/// Multiple of neurons that lets an MLP be split over devices, and suits matrix units.
const SPLIT_NEURONS: usize = 128;

impl Client {
    /// Chooses for a model.
    #[must_use]
    pub fn choose(self, model: &Architecture) -> Choice {
        // Of others, programs know equal layers without biases only.
        let special = !model.layers.iter().all(LayerShape::is_llama);
        let slides = model.layers.iter().any(|layer| layer.sliding_window.is_some());
        let without = |not_loaded: bool| if not_loaded { Compensation::None } else { Compensation::Bias };
        match self {
            Self::LlamaCpp => {
                let (round_neurons, round_heads) = quantiser_multiples(model);
                Choice { format: Format::Gguf, uniform: special, round_neurons, round_heads, compensation: without(special) }
            }
            Self::Transformers => {
                Choice { format: Format::Hf, uniform: false, round_neurons: 1, round_heads: 1, compensation: Compensation::Bias }
            }
            Self::Vllm => Choice {
                format: Format::Hf,
                uniform: true,
                round_neurons: coarsest(&[SPLIT_NEURONS], smallest_mlp(model)),
                round_heads: 1,
                // Only its LLaMA has biases on every projection; it has neither head norms nor a sliding window, and turns all heads.
                compensation: without(special || slides),
            },
        }
    }
}

impl Choice {
    /// What was chosen, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = vec![format!("--format {}", if self.format == Format::Gguf { "gguf" } else { "hf" })];
        if self.uniform {
            words.push("--uniform".into());
        }
        if self.round_neurons > 1 {
            words.push(format!("--round-neurons {}", self.round_neurons));
        }
        if self.round_heads > 1 {
            words.push(format!("--round-heads {}", self.round_heads));
        }
        if self.compensation == Compensation::None {
            words.push("--compensation none".into());
        }
        words.join(" ")
    }
}

fn smallest_mlp(model: &Architecture) -> usize {
    model.layers.iter().map(|layer| layer.intermediate_size).min().unwrap_or(1)
}

/// The first multiple that leaves at least four steps up to `size`, else 1.
fn coarsest(multiples: &[usize], size: usize) -> usize {
    multiples.iter().copied().find(|&multiple| 4 * multiple <= size).unwrap_or(1)
}

/// Multiples of neurons and query heads at which the rows of `down_proj` and `o_proj` are whole blocks.
fn quantiser_multiples(model: &Architecture) -> (usize, usize) {
    let blocks = [K_QUANT_BLOCK, QUANT_BLOCK];
    let group = model.layers[0].group_size();
    let channels = group * model.head_dim;
    // Channels and blocks share a power of two; the rest of a block must come from the number of units.
    let units = blocks.map(|block| block / (1 << channels.trailing_zeros().min(block.trailing_zeros())));
    let least_units = model.layers.iter().map(|layer| layer.key_value_heads).min().unwrap_or(1);
    (coarsest(&blocks, smallest_mlp(model)), group * coarsest(&units, least_units))
}
