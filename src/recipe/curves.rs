//! The first pass: through the dense model, with the error curve of every site.

use super::gram::{SiteSums, moments, stream_moments};
use super::linear_algebra::{inverse, remove_greedily, ridged};
use super::scratch::Scratch;
use super::weights::{to_bytes, to_matrix};
use super::{AllocationSite, RIDGE, Removal, SiteReport, channels_per_unit, leave_room, writer};
use crate::calibration::CalibrationSet;
use crate::engine::{Dtype, Engine, HostTensor};
use crate::error::Result;
use crate::forward::{LayerWeights, Site};
use crate::model::Model;
use crate::pass::{Batch, Pass, PassOptions, Visitor};
use crate::progress::Progress;
use crate::pruning::PlanOptions;
use crate::statistics::{LayerStatistics, Moments, SiteStatistics, Spread, Statistics};
use std::time::Instant;

/// What the dense model says about one site.
pub struct Curve {
    /// Layer.
    pub layer: usize,
    /// Attention or MLP.
    pub site: Site,
    /// Order of removal and its error.
    pub removal: Removal,
    /// Mean square of the residual stream behind the site, summed over its channels.
    pub stream_square: f64,
    /// Moments of the site's channels.
    pub moments: Moments,
    /// Their covariance in f32, where it was kept.
    pub covariance: Option<HostTensor>,
}

/// All sites, attention and MLP of every layer in turn.
pub struct Curves {
    /// The sites.
    pub sites: Vec<Curve>,
}

/// Sends the calibration through the dense model. Covariances are kept, in a temporary file, where they are needed again.
pub fn measure<E: Engine>(
    engine: &E,
    model: &Model,
    set: &CalibrationSet,
    options: PassOptions,
    keep_covariances: bool,
    progress: &dyn Progress,
) -> Result<Curves> {
    let options = leave_room(engine, model, options, 1);
    let pass = Pass::new(engine, model, set.windows(), set.header.sequence_length, options, progress)?;
    progress.start("measuring error curves", "tokens x layers", (set.ids.len() * model.architecture.layers.len()) as u64);
    let mut batches = pass.embed(&set.ids)?;
    let scratch = keep_covariances.then(Scratch::new).transpose()?;
    let mut visitor = Measure { sites: Vec::new(), scratch };
    pass.layers(0, &mut batches, &mut visitor)?;
    progress.finish();
    Ok(Curves { sites: visitor.sites })
}

struct Measure {
    sites: Vec<Curve>,
    scratch: Option<Scratch>,
}

impl<E: Engine> Visitor<E> for Measure {
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let hidden = pass.model.architecture.hidden_size;
        for site in Site::BOTH {
            let begin = Instant::now();
            let mut sums = SiteSums::new(false);
            let mut stream = stream_moments(pass, hidden)?;
            for batch in &mut *batches {
                crate::interrupt::check()?;
                let input = batch.read(pass.engine, |h| weights.site_input(pass.engine, site, pass.rope(), h, pass.window_tokens))?;
                sums.add(pass, batch, &input, None)?;
                let first_window = batch.first_window;
                batch.update(pass.engine, |h| {
                    pass.engine.add(h, &weights.projection(site).apply(pass.engine, &input)?)?;
                    pass.engine.accumulate(&mut stream, h, first_window)
                })?;
                if site == Site::Mlp {
                    pass.advance(batch);
                }
            }
            let what = format!("layer {layer}, {}", site.name());
            let found = sums.finish(pass.engine, &what)?;
            let measured = begin.elapsed().as_secs_f64();
            let weight = to_matrix(&pass.model.part(layer, writer(site).0)?);
            let precision = inverse(ridged(found.covariance.as_ref(), RIDGE).0.as_ref(), &what)?;
            let removal = remove_greedily(precision, weight, channels_per_unit(pass.model, layer, site), &what)?;
            let curve = begin.elapsed().as_secs_f64() - measured;
            tracing::info!("{what}: activations and Gram matrix {measured:.1} s, error curve {curve:.1} s");
            let channels = found.mean.len();
            let keep = |scratch: &mut Scratch| {
                let bytes = to_bytes(found.covariance.as_ref(), Dtype::F32, &what)?;
                scratch.keep(&bytes, Dtype::F32, channels, channels)
            };
            let covariance = self.scratch.as_mut().map(keep).transpose()?;
            let stream_square = moments(pass.engine, &stream)?.second_moment().iter().sum();
            let count = found.count;
            let m2 = (0..channels).map(|i| found.covariance[(i, i)].max(0.0) * count as f64).collect();
            let of_channels = Moments { count, mean: found.mean, m2 };
            self.sites.push(Curve { layer, site, removal, stream_square, moments: of_channels, covariance });
        }
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

    /// The same measurements as FLAP takes them.
    pub fn statistics<E: Engine>(&self, engine: &E, model: &Model, set: &CalibrationSet) -> Result<Statistics> {
        let site = |curve: &Curve| -> Result<SiteStatistics> {
            let norms = engine.column_norms(&engine.upload_matrix(&model.part(curve.layer, writer(curve.site).0)?)?)?;
            Ok(SiteStatistics {
                spread: Spread::Exact(curve.moments.clone()),
                weight_square_sum: norms.square_sum.into_iter().map(f64::from).collect(),
                weight_absolute_mean: norms.absolute_mean.into_iter().map(f64::from).collect(),
            })
        };
        let layers = self.sites.chunks_exact(2).map(|pair| Ok(LayerStatistics { attention: site(&pair[0])?, mlp: site(&pair[1])? }));
        Ok(Statistics { header: set.header.clone(), layers: layers.collect::<Result<_>>()? })
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
