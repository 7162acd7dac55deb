//! How far a pruned model's predictions are from the dense model's.

use super::teacher::normalisers;
use super::{Unvisited, normalised_head};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::Head;
use crate::interrupt;
use crate::model::Model;
use crate::pass::{Batch, Pass, PassOptions};
use crate::progress::Progress;

/// What a model predicts for every token of some windows, as hidden states that are ready for its head.
pub struct Predictions<E: Engine> {
    head: Head<E>,
    batches: Vec<Batch<E>>,
    /// Per batch and token: the logarithm of the sum of the exponentials of the logits.
    normalisers: Vec<Vec<f64>>,
    tokens: usize,
}

impl<E: Engine> Predictions<E> {
    /// Runs a model over `ids`, which must be whole windows.
    pub fn of(engine: &E, model: &Model, ids: &[u32], window_tokens: usize, options: PassOptions, progress: &dyn Progress) -> Result<Self> {
        let pass = Pass::new(engine, model, ids.len() / window_tokens, window_tokens, options, progress)?;
        progress.start("comparing", "tokens x layers", (ids.len() * model.architecture.layers.len()) as u64);
        let mut batches = pass.embed(ids)?;
        pass.layers(0, &mut batches, &mut Unvisited)?;
        let head = normalised_head(&pass, &mut batches)?;
        let normalisers = normalisers(&pass, &head, &batches)?;
        progress.finish();
        Ok(Self { head, batches, normalisers, tokens: ids.len() })
    }

    /// Tokens of the largest batch.
    pub fn batch_tokens(&self) -> usize {
        self.normalisers.iter().map(Vec::len).max().unwrap_or(1)
    }

    /// Mean over all tokens of the Kullback-Leibler divergence of `other` from these predictions, in nats. Both must have been made in the
    /// same batches.
    pub fn divergence(&self, engine: &E, other: &Self) -> Result<f64> {
        let tokens = self.batch_tokens();
        let mut sum = 0.0;
        for (left, right) in self.head.panels(engine, tokens).zip(other.head.panels(engine, tokens)) {
            let (left, right) = (left?, right?);
            let width = left.entries.len();
            let batches = self.batches.iter().zip(&other.batches).zip(self.normalisers.iter().zip(&other.normalisers));
            for ((a, b), (log_a, log_b)) in batches {
                interrupt::check()?;
                let logits_a = engine.download(&a.read(engine, |states| left.logits(engine, states))?)?;
                let logits_b = engine.download(&b.read(engine, |states| right.logits(engine, states))?)?;
                let rows = logits_a.chunks_exact(width).zip(logits_b.chunks_exact(width)).zip(log_a.iter().zip(log_b));
                for ((row_a, row_b), (log_a, log_b)) in rows {
                    for (&x, &y) in row_a.iter().zip(row_b) {
                        let (log_p, log_q) = (f64::from(x) - log_a, f64::from(y) - log_b);
                        sum += log_p.exp() * (log_p - log_q);
                    }
                }
            }
        }
        let mean = sum / self.tokens as f64;
        if mean.is_finite() {
            Ok(mean)
        } else {
            Err(Error::NotFinite("the divergence is not finite: NaN or infinity in the logits".into()))
        }
    }
}
