//! How far many variants of a model are from the dense model's predictions, at the cost of their logits' normalisers alone.
//!
//! With the dense model's probabilities `p`, the divergence of logits `W h` from its own `W h*` is
//! `log Z - <e, h> - (log Z* - <e, h*>)`, where `e = sum_v p_v W_v`: the expected row of the head, which is computed once.

use super::{Unvisited, normalise, normalised_head, normaliser_states};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::Head;
use crate::interrupt;
use crate::pass::{Batch, Pass};
use rayon::prelude::*;

/// The dense model's predictions for every token of some windows.
pub struct Teacher<E: Engine> {
    head: Head<E>,
    /// Per batch: expected rows `[tokens, hidden]`.
    expected: Vec<Vec<f32>>,
    /// Per batch and token: `log Z* - <e, h*>`.
    own: Vec<Vec<f64>>,
}

impl<E: Engine> Teacher<E> {
    /// Runs the dense model, given by a pass, over token ids of whole windows.
    pub fn of(pass: &Pass<'_, E>, ids: &[u32]) -> Result<Self> {
        let mut batches = pass.embed(ids)?;
        pass.layers(0, &mut batches, &mut Unvisited)?;
        let head = normalised_head(pass, &mut batches)?;
        let normalisers = normalisers(pass, &head, &batches)?;
        let expected = expected_rows(pass, &head, &batches, &normalisers)?;
        let mut teacher = Self { head, expected, own: Vec::new() };
        teacher.own = teacher.losses(pass, &batches, &normalisers)?;
        Ok(teacher)
    }

    /// Mean divergence, in nats a token, of every stream of last hidden states, all in the batches of the pass.
    ///
    /// # Errors
    /// If one is not finite.
    pub fn divergences(&self, pass: &Pass<'_, E>, streams: Vec<Vec<Batch<E>>>) -> Result<Vec<f64>> {
        let count = self.own.len();
        let mut batches: Vec<Batch<E>> = streams.into_iter().flatten().collect();
        normalise(pass, &self.head, &mut batches)?;
        let normalisers = normalisers(pass, &self.head, &batches)?;
        let mean = |(batches, normalisers): (&[Batch<E>], &[Vec<f64>])| {
            let losses = self.losses(pass, batches, normalisers)?;
            let tokens: usize = losses.iter().map(Vec::len).sum();
            let above = |(loss, own): (&Vec<f64>, &Vec<f64>)| -> f64 { loss.iter().zip(own).map(|(loss, own)| loss - own).sum() };
            let mean = losses.iter().zip(&self.own).map(above).sum::<f64>() / tokens as f64;
            let wrong = || Error::NotFinite("NaN or infinity in the activations or logits of a variant; try a smaller --ratio".into());
            mean.is_finite().then_some(mean).ok_or_else(wrong)
        };
        batches.chunks_exact(count).zip(normalisers.chunks_exact(count)).map(mean).collect()
    }

    /// `log Z - <e, h>` per batch and token, for normalised hidden states `h`.
    fn losses(&self, pass: &Pass<'_, E>, batches: &[Batch<E>], normalisers: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        let hidden = pass.model.architecture.hidden_size;
        let of_batch = |((batch, normalisers), expected): ((&Batch<E>, &Vec<f64>), &Vec<f32>)| {
            let states = batch.download(pass.engine)?;
            let dot = |h: &[f32], e: &[f32]| -> f64 { h.iter().zip(e).map(|(h, e)| f64::from(*h) * f64::from(*e)).sum() };
            let rows = states.par_chunks_exact(hidden).zip(expected.par_chunks_exact(hidden)).zip(normalisers);
            Ok(rows.map(|((h, e), log_z)| log_z - dot(h, e)).collect())
        };
        batches.iter().zip(normalisers).zip(self.expected.iter().cycle()).map(of_batch).collect()
    }
}

/// Per batch and token: the logarithm of the sum of the exponentials of the logits.
fn normalisers<E: Engine>(pass: &Pass<'_, E>, head: &Head<E>, batches: &[Batch<E>]) -> Result<Vec<Vec<f64>>> {
    let states = normaliser_states(pass, head, batches)?;
    let normaliser = |s: &[f32]| f64::from(s[0]) + f64::from(s[1]).ln();
    states.iter().map(|state| Ok(pass.engine.download(&state.state)?.chunks_exact(3).map(normaliser).collect())).collect()
}

/// `P W` per batch: probabilities `[tokens, vocabulary]` by the head. One batch after the other, so that one batch's sums are on the device.
fn expected_rows<E: Engine>(pass: &Pass<'_, E>, head: &Head<E>, batches: &[Batch<E>], normalisers: &[Vec<f64>]) -> Result<Vec<Vec<f32>>> {
    batches.iter().zip(normalisers).map(|(batch, normalisers)| expected_rows_of(pass, head, batch, normalisers)).collect()
}

fn expected_rows_of<E: Engine>(pass: &Pass<'_, E>, head: &Head<E>, batch: &Batch<E>, normalisers: &[f64]) -> Result<Vec<f32>> {
    let (engine, hidden, tokens) = (pass.engine, pass.model.architecture.hidden_size, normalisers.len());
    let mut sum = engine.zeros(tokens, hidden)?;
    for panel in head.panels(engine, tokens) {
        interrupt::check()?;
        let panel = panel?;
        let rows = engine.upload(&(head.rows)(panel.entries.clone())?.to_f32(), hidden)?;
        let logits = batch.read(engine, |normalised| engine.download(&panel.logits(engine, normalised)?))?;
        // One row per entry of the vocabulary, over which the product sums.
        let mut probabilities = vec![0.0; logits.len()];
        probabilities.par_chunks_exact_mut(tokens).enumerate().for_each(|(entry, row)| {
            let logits = logits.iter().skip(entry).step_by(panel.entries.len());
            row.iter_mut().zip(logits).zip(normalisers).for_each(|((p, &x), log_z)| *p = (f64::from(x) - log_z).exp() as f32);
        });
        let probabilities = engine.upload(&probabilities, tokens)?;
        engine.add_cross(&mut sum, &probabilities, 0..tokens, &rows, false)?;
    }
    engine.download(&sum)
}
