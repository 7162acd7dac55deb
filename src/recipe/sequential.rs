//! The second pass: the dense and the pruned stream side by side. Each site chooses its units and fits its weights on what really
//! reaches it in the pruned model, toward the dense stream: what earlier sites have lost is part of the target.

use super::layer::{Fitted, cut_readers, place_readers, readers};
use super::linear_algebra::{System, ridge};
use super::placement::eliminate;
use super::refit::{reader_map, refit};
use super::removal::remove_greedily;
use super::saves::{FirstPass, FittedLayers, Saves, Units};
use super::site_moments::{SiteMoments, SiteSums};
use super::weights::to_matrix;
use super::{half_of_work, keep, kept_channels, leave_room, ridge_share, site_name};
use crate::architecture::Site;
use crate::calibration::Calibration;
use crate::compaction::Replaced;
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::LayerWeights;
use crate::pass::{Batch, Pass, Visitor};
use crate::plan::PlanOptions;
use crate::statistics::TokenWeights;
use crate::tensor::HostTensor;
use rayon::prelude::*;
use std::time::Instant;

/// Where the second pass begins.
pub enum Start {
    /// At the first layer: so many units of every site go.
    First(Vec<usize>),
    /// Behind the layers that are fitted already.
    Behind(FittedLayers),
}

/// Fits every site. With `saves`, finished layers are kept there, beside the first pass.
pub fn run<E: Engine>(
    calibration: &Calibration<'_, E>,
    options: &PlanOptions,
    start: Start,
    saves: Option<(&Saves<'_>, FirstPass<'_>)>,
) -> Result<(Vec<Vec<bool>>, Replaced)> {
    let &Calibration { engine, model, set, progress, .. } = calibration;
    let pass = calibration.start(leave_room(engine, model, calibration.pass, 1))?;
    let (units, replaced, [mut dense, pruned]) = match start {
        Start::First(removed) => {
            let dense = pass.embed(&set.ids)?;
            let pruned = pass.copy(&dense)?;
            (Units { removed, kept: Vec::new() }, Replaced::new(), [dense, pruned])
        }
        Start::Behind(FittedLayers { units, replaced, streams: None }) => return Ok((units.kept, replaced)),
        Start::Behind(FittedLayers { units, replaced, streams: Some([dense, pruned]) }) => {
            (units, replaced, [pass.restore(&dense)?, pass.restore(&pruned)?])
        }
    };
    let first = units.kept.len() / 2;
    progress.start("fitting layers", "tokens x layers", calibration.tokens(model.architecture.layers.len() - first));
    let mut visitor =
        Fit { pruned, refit: options.refit, token_weights: options.token_weights, scratch: Scratch::new()?, saves, units, replaced };
    pass.layers(first, &mut dense, &mut visitor)?;
    progress.finish();
    Ok((visitor.units.kept, visitor.replaced))
}

struct Fit<'a, E: Engine> {
    /// The stream of the pruned model.
    pruned: Vec<Batch<E>>,
    refit: bool,
    token_weights: TokenWeights,
    scratch: Scratch,
    saves: Option<(&'a Saves<'a>, FirstPass<'a>)>,
    units: Units,
    replaced: Replaced,
}

impl<E: Engine> Visitor<E> for Fit<'_, E> {
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, dense: &mut [Batch<E>]) -> Result<()> {
        // The pruned layer begins as the dense one, and becomes what is written site by site.
        let mut own = pass.model.layer(pass.engine, layer)?;
        for site in Site::BOTH {
            self.site(pass, layer, site, weights, &mut own, dense)?;
        }
        Ok(())
    }

    fn finish(&mut self, pass: &Pass<'_, E>, layer: usize, _: &LayerWeights<E>, dense: &[Batch<E>]) -> Result<()> {
        if !Batch::all_finite(pass.engine, &self.pruned)? {
            return Err(Error::NotFinite(format!(
                "NaN or infinity appeared in the pruned model's activations of layer {layer}; try a smaller --ratio"
            )));
        }
        if let Some((saves, first)) = self.saves {
            saves.save_fitted(pass.engine, first, &self.units, &self.replaced, [dense, &self.pruned]);
        }
        Ok(())
    }
}

impl<E: Engine> Fit<'_, E> {
    fn site(
        &mut self,
        pass: &Pass<'_, E>,
        layer: usize,
        site: Site,
        weights: &LayerWeights<E>,
        own: &mut LayerWeights<E>,
        dense: &mut [Batch<E>],
    ) -> Result<()> {
        let (engine, model) = (pass.engine, pass.model);
        let what = site_name(layer, site);
        let mut read: Vec<HostTensor> = readers(site).iter().map(|&part| model.part(layer, part)).collect::<Result<_>>()?;
        let begin = Instant::now();
        let is_first = layer == 0 && site == Site::Attention;
        if self.refit && !is_first {
            pass.stage(&format!("{what}: readers"));
            let map = reader_map(pass, site, weights, [&*dense, &self.pruned], &what)?;
            for host in &mut read {
                *host = refit(engine, pass.room(), host, &map, &what)?;
            }
            place_readers(engine, own, site, &read)?;
        }
        let refitted = begin.elapsed().as_secs_f64();
        pass.stage(&format!("{what}: activations"));
        let half = half_of_work(model, layer, site);
        let found = self.sums(pass, site, weights, own, dense, half)?.finish(engine, &what)?;
        let measured = begin.elapsed().as_secs_f64();
        let per_unit = model.architecture.channels_per_unit(layer, site);
        let (part, bias_part) = site.writer();
        let host = model.part(layer, part)?;
        pass.stage(&format!("{what}: units and weights"));
        let (kept, fitted) = self.choose(pass, found, &host, per_unit, &what)?;
        let chosen = begin.elapsed().as_secs_f64();
        let (activations, fitting) = (measured - refitted, chosen - measured);
        tracing::info!(
            "{what}: readers {refitted:.1} s, activations and Gram matrices {activations:.1} s, units and weights {fitting:.1} s"
        );

        // What is written, and what the pruned stream goes on with, are the same rounded numbers.
        let cut = cut_readers(engine, model, layer, site, own, &kept, &read)?;
        fitted.place(engine, own, site)?;
        for (&reader, host) in readers(site).iter().zip(cut) {
            let kept = self.scratch.keep(host.bytes.as_ref(), host.dtype, host.rows, host.columns)?;
            self.replaced.insert((layer, reader), kept);
        }
        for batch in &mut self.pruned {
            crate::interrupt::check()?;
            batch.update(engine, |g| own.pass_site(engine, site, pass.rope(), g, pass.window_tokens, |_| Ok(())))?;
        }
        self.replaced.insert((layer, part), fitted.weight);
        self.replaced.insert((layer, bias_part), fitted.bias);
        self.units.kept.push(kept);
        pass.advance_by(pass.windows * pass.window_tokens, half);
        Ok(())
    }

    /// Sums of the site's activations in the pruned stream, with the target that leads back to the dense stream; the dense stream passes
    /// the site, `half` of whose work this is.
    fn sums(
        &self,
        pass: &Pass<'_, E>,
        site: Site,
        weights: &LayerWeights<E>,
        own: &LayerWeights<E>,
        dense: &mut [Batch<E>],
        half: f64,
    ) -> Result<SiteSums<E>> {
        let engine = pass.engine;
        let mut sums = SiteSums::new();
        for (dense, pruned) in dense.iter_mut().zip(&self.pruned) {
            crate::interrupt::check()?;
            dense.update(engine, |h| weights.pass_site(engine, site, pass.rope(), h, pass.window_tokens, |_| Ok(())))?;
            let mut target = dense.copy_to_device(engine)?;
            let scales = (!self.token_weights.is_equal()).then(|| engine.inverse_norms(&target)).transpose()?;
            let input = pruned.read(engine, |g| {
                engine.add_scaled(&mut target, g, -1.0)?;
                own.site_input(engine, site, pass.rope(), g, pass.window_tokens)
            })?;
            let tokens = pruned.windows * pass.window_tokens;
            sums.add(engine, &input, Some(&target), scales.as_ref(), tokens)?;
            pass.advance_by(tokens, half);
        }
        Ok(sums)
    }

    /// Units, weights and bias of the next site from its moments: `host` is what the weights are drawn to by the ridge.
    fn choose(
        &mut self,
        pass: &Pass<'_, E>,
        found: SiteMoments,
        host: &HostTensor,
        per_unit: usize,
        what: &str,
    ) -> Result<(Vec<bool>, Fitted)> {
        let (target_mean, mut rows) = found.target.expect("a target was given");
        let units = found.mean.len() / per_unit;
        // What the site would do for the target with all its channels is what the removal starts from; what it ends with are the weights
        // of the channels that stay.
        let share = ridge_share(found.covariance.size(), found.tokens);
        let ridge = ridge(&found.covariance, share);
        // In place: in a large model each of these matrices is gigabytes.
        rows.par_col_iter_mut().zip(to_matrix(host).par_col_iter()).zip(ridge.par_iter()).for_each(|((rows, weight), ridge)| {
            rows.iter_mut().zip(weight.iter()).for_each(|(row, weight)| *row += ridge * weight);
        });
        let mut system = System::ridged(found.covariance, share);
        system.rows = rows;
        let count = self.units.removed[self.units.kept.len()];
        let (removal, weights) = eliminate(pass.engine, pass.room(), system, [host.rows, per_unit], |system| {
            // Where nothing goes, the weights are all that is asked for.
            if count == 0 {
                system.solve(what)?;
            } else {
                system.invert(what)?;
            }
            Ok((remove_greedily(system, per_unit, count, what)?, system.take_rows()?))
        })?;
        let kept = keep(&removal.order, units);
        let channels = kept_channels(&kept, per_unit);
        let mean: Vec<f64> = channels.iter().map(|&channel| found.mean[channel]).collect();
        let fitted = Fitted::keep(&mut self.scratch, weights.as_ref(), &target_mean, &mean, host.dtype, what)?;
        Ok((kept, fitted))
    }
}
