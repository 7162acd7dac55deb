//! The first pass: through the dense model, with the error curve of every site.

use super::gram::{SiteSums, TokenWeights};
use super::linear_algebra::System;
use super::removal::{Removal, remove_greedily};
use super::scratch::{Packed, Scratch};
use super::weights::to_matrix;
use super::{AllocationSite, RIDGE, RecipeOptions, SiteReport, channels_per_unit, leave_room, writer};
use crate::calibration::{CalibrationSet, ChannelMoments};
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::{LayerWeights, Observer, Site};
use crate::model::Model;
use crate::pass::{Batch, Pass, Visitor};
use crate::progress::Progress;
use crate::pruning::PlanOptions;
use crate::statistics::{LayerStatistics, Statistics};
use std::time::Instant;

/// What the dense model says about one site.
pub struct Curve {
    /// Layer.
    pub layer: usize,
    /// Attention or MLP.
    pub site: Site,
    /// Order of removal and its error.
    pub removal: Removal,
    /// Mean square of the residual stream behind the site, summed over its channels: by what an error counts there.
    pub stream_square: f64,
    /// Mean of the site's channels.
    pub mean: Vec<f64>,
    /// Their covariance, where it was kept.
    pub covariance: Option<Packed>,
}

/// All sites, attention and MLP of every layer in turn.
pub struct Curves {
    /// The sites.
    pub sites: Vec<Curve>,
    /// The same measurements as FLAP takes them.
    pub statistics: Statistics,
}

/// Sends the calibration through the dense model. Covariances are kept, in a temporary file, where they are needed again.
pub fn measure<E: Engine>(
    engine: &E,
    model: &Model,
    set: &CalibrationSet,
    options: &RecipeOptions,
    keep_covariances: bool,
    progress: &dyn Progress,
) -> Result<Curves> {
    let room = leave_room(engine, model, options.pass, 1);
    let pass = Pass::new(engine, model, set.windows(), set.header.sequence_length, room, progress)?;
    progress.start("measuring error curves", "tokens x layers", (set.ids.len() * model.architecture.layers.len()) as u64);
    let mut batches = pass.embed(&set.ids)?;
    let scratch = keep_covariances.then(Scratch::new).transpose()?;
    let mut visitor = Measure { set, token_weights: options.token_weights, sites: Vec::new(), statistics: Vec::new(), scratch };
    pass.layers(0, &mut batches, &mut visitor)?;
    progress.finish();
    Ok(Curves { sites: visitor.sites, statistics: Statistics { header: set.header.clone(), layers: visitor.statistics } })
}

struct Measure<'a> {
    set: &'a CalibrationSet,
    token_weights: TokenWeights,
    sites: Vec<Curve>,
    statistics: Vec<LayerStatistics>,
    scratch: Option<Scratch>,
}

impl<E: Engine> Visitor<E> for Measure<'_> {
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let engine = pass.engine;
        let mut of_channels = ChannelMoments::new(engine, weights, self.set)?;
        for site in Site::BOTH {
            let begin = Instant::now();
            let what = format!("layer {layer}, {}", site.name());
            let mut sums = SiteSums::new();
            let mut norms = Vec::new();
            for batch in &mut *batches {
                crate::interrupt::check()?;
                let mut input = batch.read(engine, |h| weights.site_input(engine, site, pass.rope(), h, pass.window_tokens))?;
                of_channels.begin(batch);
                of_channels.observe(engine, site, &mut input)?;
                let tokens = batch.windows * pass.window_tokens;
                batch.update(engine, |h| {
                    engine.add(h, &weights.projection(site).apply(engine, &input)?)?;
                    let norm = engine.inverse_norms(h)?;
                    let scales = (self.token_weights == TokenWeights::InverseSquare).then_some(&norm);
                    sums.add(engine, &input, None, scales, tokens)?;
                    norms.push(norm);
                    Ok(())
                })?;
                if site == Site::Mlp {
                    pass.advance(batch);
                }
            }
            let found = sums.finish(engine, &what)?;
            let stream_square = self.token_weights.mean_square(engine, &norms)?;
            let measured = begin.elapsed().as_secs_f64();
            let covariance = self.scratch.as_mut().map(|scratch| Packed::keep(&found.covariance, scratch)).transpose()?;
            let mean = found.mean;
            let mut system = System::ridged(found.covariance, RIDGE);
            system.invert(&what)?;
            system.rows = to_matrix(&pass.model.part(layer, writer(site).0)?);
            let per_unit = channels_per_unit(pass.model, layer, site);
            let units = mean.len() / per_unit;
            let removal = remove_greedily(&mut system, per_unit, units, &what)?;
            let curve = begin.elapsed().as_secs_f64() - measured;
            tracing::info!("{what}: activations and Gram matrix {measured:.1} s, error curve {curve:.1} s");
            self.sites.push(Curve { layer, site, removal, stream_square, mean, covariance });
        }
        self.statistics.push(of_channels.read(engine, weights, self.set.header.mode)?);
        Ok(())
    }

    fn finish(&mut self, _: &Pass<'_, E>, _: usize, _: &LayerWeights<E>, _: &[Batch<E>]) -> Result<()> {
        Ok(())
    }
}

impl Curves {
    /// Removed units of every site.
    pub fn allocate(&self, model: &Model, options: &PlanOptions) -> Result<Vec<usize>> {
        let architecture = &model.architecture;
        let site = |curve: &Curve| {
            let attention = curve.site == Site::Attention;
            let (cost, multiple) = match curve.site {
                Site::Attention => {
                    let group = architecture.layers[curve.layer].group_size();
                    (architecture.unit_parameters(curve.layer), options.round_heads.div_ceil(group))
                }
                Site::Mlp => (architecture.neuron_parameters(), options.round_neurons),
            };
            // A stream that is nothing but zeros loses nothing.
            let scale = if curve.stream_square > 0.0 { 1.0 / curve.stream_square } else { 0.0 };
            let relative = curve.removal.curve.iter().map(|error| error * scale).collect();
            AllocationSite { cost, curve: relative, multiple: multiple.max(1), fine: !attention }
        };
        let sites: Vec<AllocationSite> = self.sites.iter().map(site).collect();
        match options.uniform {
            None => super::allocate(&sites, options.ratio),
            Some(uniform) => super::allocate_uniformly(&sites, options.ratio, &uniform.units(architecture)),
        }
    }

    /// What stays and what is lost.
    pub fn report(&self, removed: &[usize]) -> Vec<SiteReport> {
        let site = |(curve, &removed): (&Curve, &usize)| {
            let units = curve.removal.order.len();
            let error = curve.removal.curve[removed] / curve.stream_square.max(f64::MIN_POSITIVE);
            SiteReport { kept: units - removed, error }
        };
        self.sites.iter().zip(removed).map(site).collect()
    }
}
