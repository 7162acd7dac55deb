//! How far a pruned model's predictions are from the dense model's.

use super::{Unvisited, normalised_head, normaliser_states};
use crate::compaction::CompactModel;
use crate::engine::{CrossEntropy, Engine};
use crate::error::{Error, Result};
use crate::forward::{Head, LayerWeights};
use crate::interrupt;
use crate::model::Model;
use crate::pass::{Batch, Pass, PassOptions, Visitor};
use crate::progress::Progress;

/// Runs the layers of a pruned model in the place of the dense model's.
struct Unwritten<'a>(&'a CompactModel);

impl<E: Engine> Visitor<E> for Unwritten<'_> {
    fn weights(&mut self, pass: &Pass<'_, E>, layer: usize) -> Result<LayerWeights<E>> {
        self.0.layer(pass.engine, layer)
    }

    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        Unvisited.run(pass, layer, weights, batches)
    }
}

/// What a model predicts for every token of some windows, as hidden states that are ready for its head.
pub struct Predictions<E: Engine> {
    head: Head<E>,
    batches: Vec<Batch<E>>,
    /// Of each batch, for its logits' normalisers.
    states: Vec<CrossEntropy<E::Tensor>>,
    window_tokens: usize,
}

impl<E: Engine> Predictions<E> {
    /// Runs a model over `ids`, which must be whole windows.
    pub fn of(engine: &E, model: &Model, ids: &[u32], window_tokens: usize, options: PassOptions, progress: &dyn Progress) -> Result<Self> {
        Self::by(&mut Unvisited, engine, model, ids, window_tokens, options, progress)
    }

    /// Likewise a pruned model that is not written, `pruned` of `model`.
    pub fn of_pruned(
        engine: &E,
        (model, pruned): (&Model, &CompactModel),
        ids: &[u32],
        window_tokens: usize,
        options: PassOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Self::by(&mut Unwritten(pruned), engine, model, ids, window_tokens, options, progress)
    }

    fn by(
        visitor: &mut impl Visitor<E>,
        engine: &E,
        model: &Model,
        ids: &[u32],
        window_tokens: usize,
        options: PassOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let pass = Pass::new(engine, model, ids.len() / window_tokens, window_tokens, options, progress)?;
        progress.start("comparing", "tokens x layers", (ids.len() * model.architecture.layers.len()) as u64);
        let mut batches = pass.embed(ids)?;
        pass.layers(0, &mut batches, visitor)?;
        let head = normalised_head(&pass, &mut batches)?;
        let states = normaliser_states(&pass, &head, &batches)?;
        progress.finish();
        Ok(Self { head, batches, states, window_tokens })
    }

    /// Tokens of the largest batch.
    pub fn batch_tokens(&self) -> usize {
        self.batches.iter().map(|batch| batch.windows * self.window_tokens).max().unwrap_or(1)
    }

    /// Mean over all tokens of the Kullback-Leibler divergence of `other` from these predictions, in nats. Both must have been made in the
    /// same batches, by models with the same head, which pruning leaves as it is.
    pub fn divergence(&self, engine: &E, other: &Self) -> Result<f64> {
        let tokens = self.batch_tokens();
        let zeros = |batch: &Batch<E>| engine.zeros(batch.windows * self.window_tokens, 1);
        let mut sums = self.batches.iter().map(zeros).collect::<Result<Vec<_>>>()?;
        for panel in self.head.panels(engine, tokens) {
            let panel = panel?;
            let batches = self.batches.iter().zip(&other.batches).zip(self.states.iter().zip(&other.states));
            for (((a, b), (state_a, state_b)), sums) in batches.zip(&mut sums) {
                interrupt::check()?;
                let logits_a = a.read(engine, |states| panel.logits(engine, states))?;
                let logits_b = b.read(engine, |states| panel.logits(engine, states))?;
                engine.divergence_panel(sums, [&logits_a, &logits_b], [&state_a.state, &state_b.state])?;
            }
        }
        let mut of_tokens = Vec::new();
        for sums in &sums {
            of_tokens.extend(engine.download(sums)?.into_iter().map(f64::from));
        }
        let mean = of_tokens.iter().sum::<f64>() / of_tokens.len() as f64;
        if mean.is_finite() {
            Ok(mean)
        } else {
            Err(Error::NotFinite("the divergence is not finite: NaN or infinity in the logits".into()))
        }
    }
}
