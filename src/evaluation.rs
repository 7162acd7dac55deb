//! Perplexity of a model on a text, and running given token ids through a model.

use crate::engine::{Engine, negative_log_likelihood};
use crate::error::{Error, Result};
use crate::forward::{LayerWeights, Observer, Site, Unobserved};
use crate::interrupt;
use crate::model::Model;
use crate::pass::{Batch, Pass, Visitor};
use crate::progress::Progress;

/// Hidden states held at once; longer texts go through the model in several passes.
const HIDDEN_STATE_BYTES: usize = 1 << 30;

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
    batch_tokens: Option<usize>,
    progress: &dyn Progress,
) -> Result<Perplexity> {
    if window_tokens < 2 {
        return Err(Error::input("perplexity needs windows of at least 2 tokens; give a larger --sequence-length"));
    }
    let pass = Pass::new(engine, model, window_tokens, progress)?;
    let batch_tokens = batch_tokens.unwrap_or(engine.info().default_batch_tokens);
    let window_bytes = 4 * window_tokens * model.architecture.hidden_size;
    let chunk = (HIDDEN_STATE_BYTES / window_bytes).max(pass.windows_per_batch(batch_tokens)) * window_tokens;
    progress.start("evaluating", "tokens x layers", (ids.len() * model.architecture.layers.len()) as u64);
    let mut total = 0.0;
    for ids in ids.chunks(chunk) {
        let mut batches = pass.embed(ids, batch_tokens)?;
        pass.layers(0, &mut batches, &mut Unvisited)?;
        let losses = losses(&pass, &batches, ids)?;
        total += losses.chunks_exact(window_tokens - 1).map(|w| w.iter().sum::<f64>() / w.len() as f64).sum::<f64>();
    }
    progress.finish();
    let windows = ids.len() / window_tokens;
    let perplexity = (total / windows as f64).exp();
    if !perplexity.is_finite() {
        return Err(Error::NotFinite("the perplexity is not finite: NaN or infinity in the language-model head".into()));
    }
    Ok(Perplexity { perplexity, windows })
}

/// Negative log-likelihoods of every window's tokens from its second on, in order.
fn losses<E: Engine>(pass: &Pass<'_, E>, batches: &[Batch<E>], ids: &[u32]) -> Result<Vec<f64>> {
    let (engine, window_tokens) = (pass.engine, pass.window_tokens);
    let head = pass.model.head(engine)?;
    let mut states = Vec::new();
    for batch in batches {
        let first = batch.first_window * window_tokens;
        let ids = &ids[first..first + batch.windows * window_tokens];
        // Each position predicts the next token; the window's last position predicts nothing and is left out below.
        let targets: Vec<u32> = ids.chunks_exact(window_tokens).flat_map(|w| w[1..].iter().chain(&w[..1]).copied()).collect();
        states.push((head.normalise(engine, &batch.hidden_states)?, engine.cross_entropy(&targets)?));
    }
    let tokens = batches.first().map_or(1, |batch| batch.windows * window_tokens);
    for panel in head.panels(engine, tokens) {
        let panel = panel?;
        for (normalised, state) in &mut states {
            interrupt::check()?;
            engine.cross_entropy_panel(state, &panel.logits(engine, normalised)?, panel.entries.start)?;
        }
    }
    let mut losses = Vec::new();
    for (_, state) in &states {
        let all = negative_log_likelihood(&engine.download(&state.state)?);
        losses.extend(all.chunks_exact(window_tokens).flat_map(|w| &w[..window_tokens - 1]));
    }
    Ok(losses)
}

/// Runs the layers and looks at nothing.
struct Unvisited;

impl<E: Engine> Visitor<E> for Unvisited {
    fn run(&mut self, pass: &Pass<'_, E>, _: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        batches.iter_mut().try_for_each(|batch| pass.layer(weights, batch, &mut Unobserved))
    }

    fn finish(&mut self, _: &Pass<'_, E>, _: usize, _: &LayerWeights<E>, _: &[Batch<E>]) -> Result<()> {
        Ok(())
    }
}

/// Result of [`run_tokens`].
#[derive(Debug, Default)]
pub struct ForwardOutput {
    /// `[tokens, vocabulary]`.
    pub logits: Vec<f32>,
    /// Per layer the inputs of `o_proj` and `down_proj`, `[tokens, channels]`; empty unless asked for.
    pub taps: Vec<[Vec<f32>; 2]>,
}

/// Runs windows of token ids through a model and returns all logits and, if asked, every site's activations.
pub fn run_tokens<E: Engine>(
    engine: &E,
    model: &Model,
    ids: &[u32],
    window_tokens: usize,
    taps: bool,
    progress: &dyn Progress,
) -> Result<ForwardOutput> {
    let pass = Pass::new(engine, model, window_tokens, progress)?;
    progress.start("running", "tokens x layers", (ids.len() * model.architecture.layers.len()) as u64);
    let mut batches = pass.embed(ids, engine.info().default_batch_tokens)?;
    let mut capture = Capture { taps: taps.then(Vec::new) };
    pass.layers(0, &mut batches, &mut capture)?;
    let head = model.head(engine)?;
    let vocabulary = head.matrix.rows;
    let mut logits = vec![0.0; ids.len() * vocabulary];
    let normalised = batches.iter().map(|b| head.normalise(engine, &b.hidden_states)).collect::<Result<Vec<_>>>()?;
    let tokens = batches.first().map_or(1, |batch| batch.windows * window_tokens);
    for panel in head.panels(engine, tokens) {
        let panel = panel?;
        let mut rows = logits.chunks_exact_mut(vocabulary);
        for normalised in &normalised {
            interrupt::check()?;
            let part = engine.download(&panel.logits(engine, normalised)?)?;
            for (row, part) in rows.by_ref().zip(part.chunks_exact(panel.entries.len())) {
                row[panel.entries.clone()].copy_from_slice(part);
            }
        }
    }
    progress.finish();
    Ok(ForwardOutput { logits, taps: capture.taps.unwrap_or_default() })
}

/// Keeps copies of what passes the sites.
struct Capture {
    taps: Option<Vec<[Vec<f32>; 2]>>,
}

impl<E: Engine> Visitor<E> for Capture {
    fn run(&mut self, pass: &Pass<'_, E>, _: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let Some(taps) = &mut self.taps else { return Unvisited.run(pass, 0, weights, batches) };
        taps.push(Default::default());
        batches.iter_mut().try_for_each(|batch| pass.layer(weights, batch, self))
    }

    fn finish(&mut self, _: &Pass<'_, E>, _: usize, _: &LayerWeights<E>, _: &[Batch<E>]) -> Result<()> {
        Ok(())
    }
}

impl<E: Engine> Observer<E> for Capture {
    fn observe(&mut self, engine: &E, site: Site, x: &mut E::Tensor) -> Result<()> {
        if let Some(layer) = self.taps.as_mut().and_then(|taps| taps.last_mut()) {
            layer[usize::from(site == Site::Mlp)].extend(engine.download(x)?);
        }
        Ok(())
    }
}
