//! One pass of token windows through the decoder layers of a model, each layer's weights read once.
//!
//! While a layer computes, a thread touches the pages of the next; its upload follows as soon as the layer's work is queued,
//! before anything waits for the device.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::{LayerWeights, Observer, decoder_layer};
use crate::interrupt;
use crate::model::Model;
use crate::progress::Progress;

/// Windows that go through a layer together.
pub struct Batch<E: Engine> {
    /// Place of the first window among all.
    pub first_window: usize,
    /// Number of windows.
    pub windows: usize,
    /// `[windows * window_tokens, hidden]`.
    pub hidden_states: E::Tensor,
}

/// What is done at each layer.
pub trait Visitor<E: Engine> {
    /// Sends all batches through layer `layer`. Must not wait for the device if it can be helped.
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()>;
    /// The layer's results may be read now; the next layer is being uploaded already.
    fn finish(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &[Batch<E>]) -> Result<()>;
}

/// The fixed things of a pass.
pub struct Pass<'a, E: Engine> {
    /// Computes.
    pub engine: &'a E,
    /// Gives weights.
    pub model: &'a Model,
    /// Tokens of one window.
    pub window_tokens: usize,
    progress: &'a dyn Progress,
    rope: E::Tensor,
}

impl<'a, E: Engine> Pass<'a, E> {
    /// A pass over windows of `window_tokens` tokens.
    pub fn new(engine: &'a E, model: &'a Model, window_tokens: usize, progress: &'a dyn Progress) -> Result<Self> {
        let head_dim = model.architecture.head_dim;
        let rope = engine.upload(&model.architecture.rope.table(window_tokens), head_dim)?;
        Ok(Self { engine, model, window_tokens, progress, rope })
    }

    /// Windows that fit a batch of `batch_tokens` tokens: at least one.
    #[must_use]
    pub fn windows_per_batch(&self, batch_tokens: usize) -> usize {
        (batch_tokens / self.window_tokens).max(1)
    }

    /// Embeds windows, given as one run of token ids, in batches of about `batch_tokens` tokens.
    pub fn embed(&self, ids: &[u32], batch_tokens: usize) -> Result<Vec<Batch<E>>> {
        let windows = self.windows_per_batch(batch_tokens);
        let hidden = self.model.architecture.hidden_size;
        ids.chunks(windows * self.window_tokens)
            .enumerate()
            .map(|(index, ids)| {
                interrupt::check()?;
                Ok(Batch {
                    first_window: index * windows,
                    windows: ids.len() / self.window_tokens,
                    hidden_states: self.engine.upload(&self.model.embed(ids)?, hidden)?,
                })
            })
            .collect()
    }

    /// Sends one batch through a layer.
    pub fn layer(&self, weights: &LayerWeights<E>, batch: &mut Batch<E>, observer: &mut impl Observer<E>) -> Result<()> {
        interrupt::check()?;
        decoder_layer(self.engine, weights, &self.rope, &mut batch.hidden_states, self.window_tokens, observer)?;
        self.progress.advance((batch.windows * self.window_tokens) as u64);
        Ok(())
    }

    /// Visits the layers from `first_layer` on. Fails, naming the layer, if NaN or infinity appears in the hidden states.
    pub fn layers(&self, first_layer: usize, batches: &mut [Batch<E>], visitor: &mut impl Visitor<E>) -> Result<()> {
        let count = self.model.architecture.layers.len();
        if first_layer >= count {
            return Ok(());
        }
        let mut weights = self.model.layer(self.engine, first_layer)?;
        for layer in first_layer..count {
            let model = self.model;
            let next = std::thread::scope(|scope| {
                if layer + 1 < count {
                    scope.spawn(move || model.read_ahead(layer + 1));
                }
                visitor.run(self, layer, &weights, batches)?;
                (layer + 1 < count).then(|| model.layer(self.engine, layer + 1)).transpose()
            })?;
            let hidden_states: Vec<&E::Tensor> = batches.iter().map(|b| &b.hidden_states).collect();
            if !self.engine.all_finite(&hidden_states)? {
                return Err(Error::NotFinite(format!(
                    "NaN or infinity appeared in the activations of layer {layer}; the checkpoint is damaged, or its activations overflow f32"
                )));
            }
            visitor.finish(self, layer, &weights, batches)?;
            match next {
                Some(next) => weights = next,
                None => break,
            }
        }
        Ok(())
    }
}
