//! Wanda-sp: each layer is measured on the stream that the already pruned layers before it produce, pruned, and run again.

use crate::architecture::{PerSite, Site};
use crate::calibration::{Calibration, CalibrationSet, ChannelMoments, check_finite};
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::{LayerWeights, Observer};
use crate::importance;
use crate::interrupt;
use crate::pass::{Batch, Pass, Visitor};
use crate::search::{self, Kept, LayerScores};
use crate::statistics::Mode;

/// Chooses the kept units of every layer. Two passes over each layer: one to measure, one with the pruned layer.
pub fn wanda_sp<E: Engine>(calibration: &Calibration<'_, E>, ratio: f64) -> Result<Vec<Kept>> {
    let &Calibration { model, set, progress, .. } = calibration;
    let pass = calibration.start(set.leave_room(model, calibration.pass))?;
    let mut batches = pass.embed(&set.ids)?;
    progress.start("pruning layer by layer", "tokens x layers", calibration.tokens(2 * model.architecture.layers.len()));
    let mut visitor = Wanda { set, ratio, kept: Vec::new() };
    pass.layers(0, &mut batches, &mut visitor)?;
    progress.finish();
    Ok(visitor.kept)
}

struct Wanda<'a> {
    set: &'a CalibrationSet,
    ratio: f64,
    kept: Vec<Kept>,
}

impl<E: Engine> Visitor<E> for Wanda<'_> {
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let mut moments = ChannelMoments::new(pass.engine, weights, self.set)?;
        for batch in batches.iter() {
            interrupt::check()?;
            moments.begin(batch);
            let (engine, rope, tokens) = (pass.engine, pass.rope(), pass.window_tokens);
            let mut states = batch.copy_to_device(engine)?;
            weights.pass_site(engine, Site::Attention, rope, &mut states, tokens, |x| moments.observe(engine, Site::Attention, x))?;
            // What the MLP gives to the stream is not looked at.
            moments.observe(engine, Site::Mlp, &mut weights.site_input(engine, Site::Mlp, rope, &states, tokens)?)?;
            pass.advance(batch);
        }
        let statistics = moments.read(pass.engine, weights, Mode::Exact)?;
        check_finite(layer, &statistics)?;
        let scores = LayerScores {
            attention: importance::wanda(&statistics.attention),
            mlp: importance::wanda(&statistics.mlp),
            units: weights.shape.key_value_heads,
        };
        let kept = search::uniform_layer(&scores, self.ratio, self.set.header.mode == Mode::Compat);
        let mut mask = Mask::<E>::new(pass.engine, weights, &kept)?;
        for batch in batches {
            pass.layer(weights, batch, &mut mask)?;
        }
        self.kept.push(kept);
        Ok(())
    }
}

/// Zeroes the channels of removed units at both sites.
struct Mask<E: Engine>(PerSite<E::Tensor>);

impl<E: Engine> Mask<E> {
    fn new(engine: &E, weights: &LayerWeights<E>, kept: &Kept) -> Result<Self> {
        let mask = PerSite::try_from_fn(|site| {
            let units = if site == Site::Attention { &kept.attention } else { &kept.mlp };
            let repeat = weights.shape.channels_per_unit(site, weights.head_dim);
            let ones: Vec<f32> = units.iter().flat_map(|&keep| std::iter::repeat_n(f32::from(u8::from(keep)), repeat)).collect();
            engine.upload(&ones, ones.len())
        });
        Ok(Self(mask?))
    }
}

impl<E: Engine> Observer<E> for Mask<E> {
    fn observe(&mut self, engine: &E, site: Site, x: &mut E::Tensor) -> Result<()> {
        engine.scale_columns(x, &self.0[site])
    }
}
