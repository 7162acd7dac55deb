//! A decoder layer and the language-model head as sequences of engine operations.
//!
//! Two *sites* of every layer can be observed: the inputs of the projections that write into the residual stream. This module
//! does not know where weights come from, or why someone observes.

mod head;
mod layer;

pub use head::{Head, HeadPanel, panel_bytes};
pub use layer::{LayerWeights, Linear, Observer, Unobserved, decoder_layer};
