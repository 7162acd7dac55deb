//! How far a pruned model's predictions are from the dense model's.

use super::{Unvisited, normalised_head};
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::Head;
use crate::interrupt;
use crate::model::Model;
use crate::pass::{Batch, Pass, PassOptions};
use crate::progress::Progress;

/// Mean over all tokens of the Kullback-Leibler divergence of a pruned model's predictions from the dense model's, in nats; `ids` must
/// be whole windows.
pub fn divergence<E: Engine>(
    engine: &E,
    [dense, pruned]: [&Model; 2],
    ids: &[u32],
    window_tokens: usize,
    options: PassOptions,
    progress: &dyn Progress,
) -> Result<f64> {
    let windows = ids.len() / window_tokens;
    // Both in the same batches.
    let options = PassOptions { batch_tokens: Some(options.batch_tokens.unwrap_or(window_tokens)), ..options };
    let layers = dense.architecture.layers.len() + pruned.architecture.layers.len();
    progress.start("comparing", "tokens x layers", (ids.len() * layers) as u64);
    let last = |model| -> Result<(Head<E>, Vec<Batch<E>>)> {
        let pass = Pass::new(engine, model, windows, window_tokens, options, progress)?;
        let mut batches = pass.embed(ids)?;
        pass.layers(0, &mut batches, &mut Unvisited)?;
        Ok((normalised_head(&pass, &mut batches)?, batches))
    };
    let (dense, pruned) = (last(dense)?, last(pruned)?);
    let mut sum = 0.0;
    for (a, b) in dense.1.iter().zip(&pruned.1) {
        let tokens = a.windows * window_tokens;
        let (a, b) = (a.copy_to_device(engine)?, b.copy_to_device(engine)?);
        let (log_a, log_b) = (log_normalisers(engine, &dense.0, &a, tokens)?, log_normalisers(engine, &pruned.0, &b, tokens)?);
        for (left, right) in dense.0.panels(engine, log_a.len()).zip(pruned.0.panels(engine, log_b.len())) {
            interrupt::check()?;
            let (left, right) = (left?, right?);
            let (logits_a, logits_b) = (engine.download(&left.logits(engine, &a)?)?, engine.download(&right.logits(engine, &b)?)?);
            let width = left.entries.len();
            let rows = logits_a.chunks_exact(width).zip(logits_b.chunks_exact(width)).zip(log_a.iter().zip(&log_b));
            for ((row_a, row_b), (log_a, log_b)) in rows {
                for (&x, &y) in row_a.iter().zip(row_b) {
                    let (log_p, log_q) = (f64::from(x) - log_a, f64::from(y) - log_b);
                    sum += log_p.exp() * (log_p - log_q);
                }
            }
        }
    }
    progress.finish();
    Ok(sum / ids.len() as f64)
}

/// The logarithm of the sum of the exponentials of each token's logits.
fn log_normalisers<E: Engine>(engine: &E, head: &Head<E>, states: &E::Tensor, tokens: usize) -> Result<Vec<f64>> {
    let mut state = engine.cross_entropy(&vec![0; tokens])?;
    for panel in head.panels(engine, tokens) {
        let panel = panel?;
        engine.cross_entropy_panel(&mut state, &panel.logits(engine, states)?, panel.entries.start)?;
    }
    let values = engine.download(&state.state)?;
    Ok(values.chunks_exact(3).map(|s| f64::from(s[0]) + f64::from(s[1]).ln()).collect())
}
