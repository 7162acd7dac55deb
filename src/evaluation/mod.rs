//! Perplexity of a model on a text, divergence from another model, and running given token ids through a model.

mod divergence;
mod guard;
mod teacher;

pub use divergence::Predictions;
pub use guard::{Guard, Guarded};
pub use teacher::Teacher;

use crate::architecture::{PerSite, Site};
use crate::engine::{CrossEntropy, Engine, negative_log_likelihood};
use crate::error::{Error, Result};
use crate::forward::{Head, LayerWeights, Observer, Unobserved};
use crate::interrupt;
use crate::model::Model;
use crate::pass::{Batch, Pass, PassOptions, Visitor};
use crate::progress::Progress;

/// What it must be if the layers' activations are finite and what follows is not.
const OUTSIDE_LAYERS: &str = "NaN or infinity in the embedding, the final norm or the language-model head; the checkpoint is damaged";

/// Result of [`perplexity`].
#[derive(Debug, Clone, Copy)]
pub struct Perplexity {
    /// exp of the mean over windows of the mean negative log-likelihood of positions 1 to the window's end.
    pub perplexity: f64,
    /// Windows.
    pub windows: usize,
}

/// Perplexity over consecutive windows of `window_tokens` tokens; `ids` must be whole windows of at least two tokens.
pub fn perplexity<E: Engine>(
    engine: &E,
    model: &Model,
    ids: &[u32],
    window_tokens: usize,
    options: PassOptions,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    if window_tokens < 2 {
        return Err(Error::input("perplexity needs windows of at least 2 tokens; give a larger --sequence-length"));
    }
    let windows = ids.len() / window_tokens;
    let pass = Pass::new(engine, model, windows, window_tokens, options, progress)?;
    progress.start("evaluating", "tokens x layers", (ids.len() * model.architecture.layers.len()) as u64);
    let mut batches = pass.embed(ids)?;
    pass.layers(0, &mut batches, &mut Unvisited)?;
    let losses = losses(&pass, &mut batches, ids)?;
    let total: f64 = losses.chunks_exact(window_tokens - 1).map(|w| w.iter().sum::<f64>() / w.len() as f64).sum();
    progress.finish();
    let perplexity = (total / windows as f64).exp();
    if !perplexity.is_finite() {
        return Err(Error::NotFinite(format!("the perplexity is not finite: {OUTSIDE_LAYERS}")));
    }
    Ok(Perplexity { perplexity, windows })
}

/// Negative log-likelihoods of every window's tokens from its second on, in order.
fn losses<E: Engine>(pass: &Pass<'_, E>, batches: &mut [Batch<E>], ids: &[u32]) -> Result<Vec<f64>> {
    let window_tokens = pass.window_tokens;
    let head = normalised_head(pass, batches)?;
    // Each position predicts the next token; the window's last position predicts nothing and is left out below.
    let targets: Vec<u32> = ids.chunks_exact(window_tokens).flat_map(|w| w[1..].iter().chain(&w[..1]).copied()).collect();
    let mut losses = Vec::new();
    for state in cross_entropies(pass, &head, batches, &targets)? {
        let all = negative_log_likelihood(&pass.engine.download(&state.state)?);
        losses.extend(all.chunks_exact(window_tokens).flat_map(|w| &w[..window_tokens - 1]));
    }
    Ok(losses)
}

/// The cross entropies of all batches, panel by panel of the head.
fn cross_entropies<E: Engine>(
    pass: &Pass<'_, E>,
    head: &Head<E>,
    batches: &[Batch<E>],
    targets: &[u32],
) -> Result<Vec<CrossEntropy<E::Tensor>>> {
    let engine = pass.engine;
    let tokens_of = |batch: &Batch<E>| batch.first_window * pass.window_tokens..(batch.first_window + batch.windows) * pass.window_tokens;
    let mut states = batches.iter().map(|batch| engine.cross_entropy(&targets[tokens_of(batch)])).collect::<Result<Vec<_>>>()?;
    for panel in head.panels(engine, batches.first().map_or(1, |batch| tokens_of(batch).len())) {
        let panel = panel?;
        for (batch, state) in batches.iter().zip(&mut states) {
            interrupt::check()?;
            let logits = batch.read(engine, |normalised| panel.logits(engine, normalised))?;
            engine.cross_entropy_panel(state, &logits, panel.entries.start)?;
        }
    }
    Ok(states)
}

/// The same where only the logits' normalisers are asked for: any target serves.
fn normaliser_states<E: Engine>(pass: &Pass<'_, E>, head: &Head<E>, batches: &[Batch<E>]) -> Result<Vec<CrossEntropy<E::Tensor>>> {
    cross_entropies(pass, head, batches, &vec![0; pass.windows * pass.window_tokens])
}

/// The head, and the last layer's hidden states made ready for it, in place.
fn normalised_head<E: Engine>(pass: &Pass<'_, E>, batches: &mut [Batch<E>]) -> Result<Head<E>> {
    let head = pass.model.head(pass.engine)?;
    normalise(pass, &head, batches)?;
    Ok(head)
}

/// Makes hidden states ready for a head, in place.
fn normalise<E: Engine>(pass: &Pass<'_, E>, head: &Head<E>, batches: &mut [Batch<E>]) -> Result<()> {
    let normalised = |hidden_states: &mut E::Tensor| {
        // A copy, because the CPU engine keeps the memory of what operations make, and hidden states are large.
        *hidden_states = pass.engine.copy(&head.normalise(pass.engine, hidden_states)?)?;
        Ok(())
    };
    batches.iter_mut().try_for_each(|batch| batch.update(pass.engine, normalised))
}

/// Runs the layers and looks at nothing.
struct Unvisited;

impl<E: Engine> Visitor<E> for Unvisited {
    fn run(&mut self, pass: &Pass<'_, E>, _: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        batches.iter_mut().try_for_each(|batch| pass.layer(weights, batch, &mut Unobserved))
    }
}

/// Result of [`run_tokens`].
#[derive(Debug, Default)]
pub struct ForwardOutput {
    /// `[tokens, vocabulary]`.
    pub logits: Vec<f32>,
    /// Per layer the inputs of `o_proj` and `down_proj`, `[tokens, channels]`; empty unless asked for.
    pub taps: Vec<PerSite<Vec<f32>>>,
}

/// Runs windows of token ids through a model and returns all logits and, if asked, every site's activations.
pub fn run_tokens<E: Engine>(
    engine: &E,
    model: &Model,
    ids: &[u32],
    window_tokens: usize,
    taps: bool,
    options: PassOptions,
    progress: &dyn Progress,
) -> Result<ForwardOutput> {
    let pass = Pass::new(engine, model, ids.len() / window_tokens, window_tokens, options, progress)?;
    progress.start("running", "tokens x layers", (ids.len() * model.architecture.layers.len()) as u64);
    let mut batches = pass.embed(ids)?;
    let mut capture = Capture { taps: taps.then(Vec::new) };
    pass.layers(0, &mut batches, &mut capture)?;
    let head = normalised_head(&pass, &mut batches)?;
    let vocabulary = head.vocabulary_size;
    let mut logits = Vec::new();
    let count = ids.len().saturating_mul(vocabulary);
    if logits.try_reserve_exact(count).is_err() {
        return Err(Error::input(format!("memory does not hold {count} logits: give fewer tokens")));
    }
    logits.resize(count, 0.0);
    let tokens = batches.first().map_or(1, |batch| batch.windows * window_tokens);
    for panel in head.panels(engine, tokens) {
        let panel = panel?;
        let mut rows = logits.chunks_exact_mut(vocabulary);
        for batch in &batches {
            interrupt::check()?;
            let part = batch.read(engine, |normalised| engine.download(&panel.logits(engine, normalised)?))?;
            // In this order: the first to end takes nothing of the other.
            for (part, row) in part.chunks_exact(panel.entries.len()).zip(rows.by_ref()) {
                row[panel.entries.clone()].copy_from_slice(part);
            }
        }
    }
    progress.finish();
    Ok(ForwardOutput { logits, taps: capture.taps.unwrap_or_default() })
}

/// Keeps copies of what passes the sites.
struct Capture {
    taps: Option<Vec<PerSite<Vec<f32>>>>,
}

impl<E: Engine> Visitor<E> for Capture {
    fn run(&mut self, pass: &Pass<'_, E>, _: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let Some(taps) = &mut self.taps else { return Unvisited.run(pass, 0, weights, batches) };
        taps.push(PerSite::default());
        batches.iter_mut().try_for_each(|batch| pass.layer(weights, batch, self))
    }
}

impl<E: Engine> Observer<E> for Capture {
    fn observe(&mut self, engine: &E, site: Site, x: &mut E::Tensor) -> Result<()> {
        if let Some(layer) = self.taps.as_mut().and_then(|taps| taps.last_mut()) {
            layer[site].extend(engine.download(x)?);
        }
        Ok(())
    }
}
