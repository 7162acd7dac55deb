//! A decoder layer and the language-model head as sequences of engine operations.
//!
//! Two *sites* of every layer can be observed: the inputs of the projections that write into the residual stream. This module
//! does not know where weights come from, or why someone observes.

mod head;
mod layer;

pub use head::{Head, HeadPanel, panel_bytes};
pub use layer::{LayerWeights, Linear, Observer, Unobserved, decoder_layer};

/// Where a layer can be observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The input of `o_proj`: `[tokens, heads * head_dim]`.
    Attention,
    /// The input of `down_proj`: `[tokens, intermediate_size]`.
    Mlp,
}

impl Site {
    /// Both sites, in the order in which a layer reaches them.
    pub const BOTH: [Self; 2] = [Self::Attention, Self::Mlp];

    /// The name in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }
}
