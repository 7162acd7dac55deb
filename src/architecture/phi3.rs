//! Phi-3 and Phi-4: a LLaMA, or with a sliding window a Mistral, but for matrices that hold the rows of several projections. It is
//! opened as that LLaMA or Mistral, and written as one.

use super::{Architecture, llama, mistral};
use crate::checkpoint::Config;
use crate::error::Result;

pub const FAMILY: &str = "Phi3ForCausalLM";

pub fn describe(config: &Config) -> Result<Architecture> {
    // The families that it is written as have another default.
    config.number("rms_norm_eps")?;
    // Where all positions lie within the window there is none.
    let positions = config.optional_size("max_position_embeddings")?.unwrap_or(usize::MAX);
    let slides = config.optional_size("sliding_window")?.is_some_and(|window| window < positions);
    if slides { mistral::describe(config) } else { llama::describe(config) }
}
