//! The first pass: through the dense model, with the second moments of every site.

use super::site_moments::{SiteMoments, SiteSums, mean_square};
use super::{half_of_work, leave_room, site_name};
use crate::architecture::Site;
use crate::calibration::{Calibration, CalibrationSet, ChannelMoments};
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::{LayerWeights, Observer};
use crate::pass::{Batch, Pass, Visitor};
use crate::statistics::{LayerStatistics, SiteCovariance, Statistics, TokenWeights, packed_length};
use crate::tensor::Dtype;
use memmap2::Mmap;
use std::time::Instant;

/// What the dense model says about one site.
pub struct DenseSite {
    /// Layer.
    pub layer: usize,
    /// Attention or MLP.
    pub site: Site,
    /// Moments of the site's channels.
    pub moments: SiteMoments,
    /// Mean square of the residual stream behind the site, summed over its channels: by what an error counts there.
    pub stream_square: f64,
    /// Bytes of the device that the pass leaves for what is done with them.
    pub room: u64,
}

/// Takes what a pass through the dense model finds.
pub trait Sites<E: Engine> {
    /// The next site.
    fn site(&mut self, found: DenseSite) -> Result<()>;

    /// A layer is finished: the statistics of all so far, and the hidden states behind it.
    fn layer(&mut self, engine: &E, statistics: &[LayerStatistics], batches: &[Batch<E>]);
}

/// Sends the calibration through the dense model and hands out what is found, site by site, with the layers' statistics as FLAP takes them
/// gathered on the way. Goes on behind layers that are finished already, from their statistics and the hidden states behind them.
pub fn measure<E: Engine>(
    calibration: &Calibration<'_, E>,
    token_weights: TokenWeights,
    finished: Option<(Vec<LayerStatistics>, Mmap)>,
    sites: &mut impl Sites<E>,
) -> Result<Statistics> {
    let &Calibration { engine, model, set, progress, .. } = calibration;
    let pass = calibration.start(set.leave_room(model, leave_room(engine, model, calibration.pass, 0)))?;
    let (statistics, mut batches) = match finished {
        Some((layers, hidden_states)) => (layers, pass.restore(&hidden_states)?),
        None => (Vec::new(), pass.embed(&set.ids)?),
    };
    let first = statistics.len();
    progress.start("measuring the dense model", "tokens x layers", calibration.tokens(model.architecture.layers.len() - first));
    let mut visitor = Measure { set, token_weights, sites, statistics };
    pass.layers(first, &mut batches, &mut visitor)?;
    progress.finish();
    Ok(Statistics { header: set.measured_on(engine), layers: visitor.statistics })
}

struct Measure<'a, S> {
    set: &'a CalibrationSet,
    token_weights: TokenWeights,
    sites: &'a mut S,
    statistics: Vec<LayerStatistics>,
}

impl<E: Engine, S: Sites<E>> Visitor<E> for Measure<'_, S> {
    fn run(&mut self, pass: &Pass<'_, E>, layer: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> Result<()> {
        let engine = pass.engine;
        let mut of_channels = ChannelMoments::new(engine, weights, self.set)?;
        for site in Site::BOTH {
            let begin = Instant::now();
            let what = site_name(layer, site);
            let half = half_of_work(pass.model, layer, site);
            pass.stage(&format!("{what}: activations"));
            let mut sums = SiteSums::new();
            let mut norms = Vec::new();
            for batch in &mut *batches {
                crate::interrupt::check()?;
                of_channels.begin(batch);
                let tokens = batch.windows * pass.window_tokens;
                batch.update(engine, |h| {
                    let mut input = weights.site_input(engine, site, pass.rope(), h, pass.window_tokens)?;
                    of_channels.observe(engine, site, &mut input)?;
                    engine.add(h, &weights.writer(site).apply(engine, &input)?)?;
                    let norm = engine.inverse_norms(h)?;
                    let scales = (!self.token_weights.is_equal()).then_some(&norm);
                    sums.add(engine, &input, None, scales, tokens)?;
                    norms.push(norm);
                    Ok(())
                })?;
                pass.advance_by(tokens, half);
            }
            let moments = sums.finish(engine, &what)?;
            let stream_square = mean_square(engine, self.token_weights, &norms)?;
            tracing::info!("{what}: activations and Gram matrix {:.1} s", begin.elapsed().as_secs_f64());
            pass.stage(&format!("{what}: error curve"));
            self.sites.site(DenseSite { layer, site, moments, stream_square, room: pass.room() })?;
            pass.advance_by(self.set.ids.len(), half);
        }
        self.statistics.push(of_channels.read(engine, weights, self.set.header.mode)?);
        Ok(())
    }

    fn finish(&mut self, pass: &Pass<'_, E>, _: usize, _: &LayerWeights<E>, batches: &[Batch<E>]) -> Result<()> {
        self.sites.layer(pass.engine, &self.statistics, batches);
        Ok(())
    }
}

impl DenseSite {
    /// As statistics keep it, in a temporary file.
    pub fn keep(&self, scratch: &mut Scratch) -> Result<SiteCovariance> {
        let matrix = &self.moments.covariance;
        let mut values: Vec<f32> = Vec::with_capacity(packed_length(matrix.size()));
        (0..matrix.size()).for_each(|j| values.extend(matrix.column(j).iter().map(|&value| value as f32)));
        let packed = scratch.keep(bytemuck::cast_slice(&values), Dtype::F32, 1, values.len())?;
        let (weight, mean) = (self.moments.weight, self.moments.mean.clone());
        Ok(SiteCovariance { tokens: self.moments.tokens, weight, stream_square: self.stream_square, mean, packed })
    }
}
