//! The final norm and the language-model head, in panels of vocabulary rows: the logits of a whole vocabulary never exist at once.

use crate::engine::{DeviceInfo, Engine};
use crate::error::Result;
use crate::tensor::HostTensor;
use std::ops::Range;

/// Bytes beyond which larger panels gain nothing.
const MOST_PANEL_BYTES: u64 = 64 << 20;
/// Share of the memory budget that a panel may take.
const PANEL_SHARE: u64 = 64;

/// Bytes of f32 that a panel may have, and its logits for a batch.
#[must_use]
pub fn panel_bytes(info: &DeviceInfo) -> u64 {
    MOST_PANEL_BYTES.min(info.memory_budget / PANEL_SHARE)
}

/// Rows below which a product is mostly waiting, and of which a panel has a multiple: products are fastest in whole tiles.
const LEAST_ROWS: usize = 64;

/// The final norm and the head's matrix, which stays in host memory.
pub struct Head<E: Engine> {
    /// Weight of the final norm `[hidden]`.
    pub norm: E::Tensor,
    /// Epsilon of the norm.
    pub eps: f32,
    /// Entries of the vocabulary.
    pub vocabulary_size: usize,
    /// Fetches rows of the matrix `[vocabulary, hidden]` when their turn comes.
    pub rows: Box<dyn Fn(Range<usize>) -> Result<HostTensor>>,
}

/// Some rows of the head on the device.
pub struct HeadPanel<E: Engine> {
    /// Vocabulary entries of the panel.
    pub entries: Range<usize>,
    weight: E::Matrix,
}

impl<E: Engine> Head<E> {
    /// Normalised hidden states, ready for the panels.
    pub fn normalise(&self, engine: &E, hidden_states: &E::Tensor) -> Result<E::Tensor> {
        engine.rms_norm(hidden_states, &self.norm, self.eps)
    }

    /// Brings the head to the device panel by panel, each within [`panel_bytes`], as are its logits for `tokens` tokens.
    pub fn panels<'a>(&'a self, engine: &'a E, tokens: usize) -> impl Iterator<Item = Result<HeadPanel<E>>> + 'a {
        let columns = tokens.max(engine.columns(&self.norm));
        let rows = (panel_bytes(engine.info()) as usize / 4 / columns / LEAST_ROWS).max(1) * LEAST_ROWS;
        (0..self.vocabulary_size).step_by(rows).map(move |first| {
            let entries = first..(first + rows).min(self.vocabulary_size);
            let weight = engine.upload_matrix(&(self.rows)(entries.clone())?)?;
            Ok(HeadPanel { entries, weight })
        })
    }
}

impl<E: Engine> HeadPanel<E> {
    /// Logits `[tokens, panel entries]` of normalised hidden states.
    pub fn logits(&self, engine: &E, normalised: &E::Tensor) -> Result<E::Tensor> {
        engine.linear(normalised, &self.weight, None)
    }
}
