//! One pass of token windows through the decoder layers of a model, each layer's weights read once.
//!
//! While a layer computes, a thread touches the pages of the next; its upload follows as soon as the layer's work is queued,
//! in a calibration before anything waits for the device.

mod batch;
mod memory;

use crate::disk::temporary_shortage;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::{LayerWeights, Observer, decoder_layer};
use crate::interrupt;
use crate::model::Model;
use crate::progress::Progress;
use std::time::Instant;

pub use batch::Batch;
pub use memory::PassOptions;

/// What is done at each layer.
pub trait Visitor<E: Engine> {
    /// Brings the weights of layer `layer` to the device; the model's own, unless the visitor runs other ones.
    fn weights(&mut self, pass: &Pass<'_, E>, layer: usize) -> Result<LayerWeights<E>> {
        pass.model.layer(pass.engine, layer)
    }
    /// Sends all batches through layer `layer`. Must not wait for the device if it can be helped.
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()>;
    /// The layer's results may be read now; the next layer is being uploaded already.
    fn finish(&mut self, _pass: &Pass<'_, E>, _layer: usize, _weights: &LayerWeights<E>, _batches: &[Batch<E>]) -> Result<()> {
        Ok(())
    }
}

/// The fixed things of a pass.
pub struct Pass<'a, E: Engine> {
    /// Computes.
    pub engine: &'a E,
    /// Gives weights.
    pub model: &'a Model,
    /// Windows.
    pub windows: usize,
    /// Tokens of one window.
    pub window_tokens: usize,
    progress: &'a dyn Progress,
    rope: E::Tensor,
    layout: memory::Layout,
}

impl<'a, E: Engine> Pass<'a, E> {
    /// A pass over `windows` windows of `window_tokens` tokens.
    pub fn new(
        engine: &'a E,
        model: &'a Model,
        windows: usize,
        window_tokens: usize,
        options: PassOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let architecture = &model.architecture;
        let layout = memory::plan(engine.info(), architecture, &|layer| model.layer_bytes(layer), windows, window_tokens, options)?;
        if layout.place == memory::Place::File
            && let Some(note) = temporary_shortage(layout.states, "hidden states")
        {
            progress.note(&note);
        }
        let rope = engine.upload(&architecture.rope.table(window_tokens), architecture.head_dim)?;
        // What is multiplied once needs no packing beforehand.
        engine.set_spare_memory(if windows * window_tokens > layout.batch_tokens { layout.spare } else { 0 });
        Ok(Self { engine, model, windows, window_tokens, progress, rope, layout })
    }

    /// Embeds windows, given as one run of token ids, and gathers them in batches.
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<Batch<E>>> {
        self.batches(ids, |ids| self.model.embed(ids))
    }

    /// Batches from hidden states `[tokens, hidden]` that [`Batch::save`] wrote.
    pub fn restore(&self, hidden_states: &[u8]) -> Result<Vec<Batch<E>>> {
        let hidden = self.model.architecture.hidden_size;
        let rows: Vec<&[f32]> = bytemuck::cast_slice::<u8, f32>(hidden_states).chunks_exact(hidden).collect();
        self.batches(&rows, |rows| Ok(rows.concat()))
    }

    /// A second stream with the same content.
    pub fn copy(&self, batches: &[Batch<E>]) -> Result<Vec<Batch<E>>> {
        let mut keeper = batch::Keeper::new(self.layout.place, self.model.architecture.hidden_size)?;
        batches.iter().map(|batch| keeper.copy(self.engine, batch)).collect()
    }

    /// Cuts tokens into batches and keeps the hidden states that `states` gives for each.
    fn batches<T>(&self, tokens: &[T], states: impl Fn(&[T]) -> Result<Vec<f32>>) -> Result<Vec<Batch<E>>> {
        let hidden = self.model.architecture.hidden_size;
        let mut keeper = batch::Keeper::new(self.layout.place, hidden)?;
        let windows = self.layout.batch_tokens / self.window_tokens;
        let batch = |(index, part): (usize, &[T])| {
            interrupt::check()?;
            keeper.keep(self.engine, index * windows, part.len() / self.window_tokens, states(part)?)
        };
        tokens.chunks(self.layout.batch_tokens).enumerate().map(batch).collect()
    }

    /// The table of rotary angles.
    pub fn rope(&self) -> &E::Tensor {
        &self.rope
    }

    /// Bytes of the device that are for what is kept beside the pass.
    pub fn room(&self) -> u64 {
        self.layout.room
    }

    /// Sends one batch through a layer.
    pub fn layer(&self, weights: &LayerWeights<E>, batch: &mut Batch<E>, observer: &mut impl Observer<E>) -> Result<()> {
        interrupt::check()?;
        batch.update(self.engine, |hidden_states| {
            decoder_layer(self.engine, weights, &self.rope, hidden_states, self.window_tokens, observer)
        })?;
        self.advance(batch);
        Ok(())
    }

    /// Says that a batch went through a layer.
    pub fn advance(&self, batch: &Batch<E>) {
        self.advance_by(batch.windows * self.window_tokens, 1.0);
    }

    /// Says that a share of a layer's work on so many tokens is done.
    pub fn advance_by(&self, tokens: usize, share: f64) {
        self.progress.advance((tokens as f64 * share) as u64);
    }

    /// Says what is being done now.
    pub fn stage(&self, what: &str) {
        self.progress.stage(what);
    }

    /// Visits the layers from `first_layer` on. Fails, naming the layer, if NaN or infinity appears in the hidden states.
    pub fn layers(&self, first_layer: usize, batches: &mut [Batch<E>], visitor: &mut impl Visitor<E>) -> Result<()> {
        let count = self.model.architecture.layers.len();
        if first_layer >= count {
            return Ok(());
        }
        let mut weights = visitor.weights(self, first_layer)?;
        for layer in first_layer..count {
            let model = self.model;
            let begin = Instant::now();
            let next = std::thread::scope(|scope| {
                if layer + 1 < count {
                    scope.spawn(move || model.read_ahead(layer + 1));
                }
                visitor.run(self, layer, &weights, batches)?;
                let queued = begin.elapsed();
                let next = (layer + 1 < count).then(|| visitor.weights(self, layer + 1)).transpose();
                tracing::debug!("layer {layer}: queued after {queued:.3?}, the next one's weights after {:.3?}", begin.elapsed());
                next
            })?;
            if !Batch::all_finite(self.engine, batches)? {
                return Err(Error::activations_not_finite(format_args!("in the activations of layer {layer}")));
            }
            let computed = begin.elapsed();
            visitor.finish(self, layer, &weights, batches)?;
            tracing::debug!("layer {layer}: computed after {computed:.3?}, read after {:.3?}", begin.elapsed());
            match next {
                Some(next) => weights = next,
                None => break,
            }
        }
        Ok(())
    }
}
