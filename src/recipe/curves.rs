//! Error curves of all sites, and the allocation that follows from them.

use super::curve::Curve;
use super::dense::{DenseSite, Sites, measure};
use super::linear_algebra::System;
use super::placement::{eliminate, room_without_pass};
use super::removal::{Removal, remove_greedily};
use super::saves::{FirstPass, Measured, Saves, keeps_covariances};
use super::symmetric::Symmetric;
use super::weights::to_matrix;
use super::{AllocationSite, keep, ridge_share, site_name};
use crate::architecture::Site;
use crate::calibration::Calibration;
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Model;
use crate::pass::Batch;
use crate::plan::PlanOptions;
use crate::progress::Progress;
use crate::statistics::{LayerStatistics, SiteCovariance, Statistics};
use std::time::Instant;

/// All sites, attention and MLP of every layer in turn.
pub struct Curves {
    /// The sites.
    pub sites: Vec<Curve>,
    /// What a pass through the dense model took, and the curves of all sites; not if an interrupted run has made them.
    pub seconds: Option<[f64; 2]>,
}

/// Removes all units of a site from its covariance over so many tokens.
fn remove_all<E: Engine>(
    engine: &E,
    room: u64,
    model: &Model,
    (layer, site): (usize, Site),
    covariance: Symmetric,
    tokens: u64,
) -> Result<Removal> {
    let begin = Instant::now();
    let what = site_name(layer, site);
    let per_unit = model.architecture.channels_per_unit(layer, site);
    let units = covariance.size() / per_unit;
    if covariance.mean_of_diagonal() == 0.0 {
        // What never varies is made up for by the bias.
        return Ok(Removal { order: (0..units).collect(), curve: vec![0.0; units + 1] });
    }
    let share = ridge_share(covariance.size(), tokens);
    let system = System::ridged(covariance, share);
    // Read here, so that no number of it that is not finite is taken for one of the elimination's.
    let writer = model.part(layer, site.writer().0)?;
    let removal = eliminate(engine, room, system, [model.architecture.hidden_size, per_unit], |system| {
        system.invert(&what)?;
        system.set_rows(to_matrix(&writer))?;
        remove_greedily(system, per_unit, units, &what)
    })?;
    tracing::info!("{what}: error curve {:.1} s", begin.elapsed().as_secs_f64());
    Ok(removal)
}

/// Makes curves of what a pass through the dense model finds.
struct Measuring<'a, E: Engine> {
    engine: &'a E,
    model: &'a Model,
    /// For covariances that are kept.
    scratch: Option<Scratch>,
    saves: Option<&'a Saves<'a>>,
    sites: Vec<Curve>,
    /// Seconds of linear algebra.
    algebra: f64,
}

impl<E: Engine> Sites<E> for Measuring<'_, E> {
    fn site(&mut self, found: DenseSite) -> Result<()> {
        let covariance = self.scratch.as_mut().map(|scratch| found.keep(scratch)).transpose()?;
        let DenseSite { layer, site, moments, stream_square, room } = found;
        let start = Instant::now();
        let removal = remove_all(self.engine, room, self.model, (layer, site), moments.covariance, moments.tokens)?;
        self.algebra += start.elapsed().as_secs_f64();
        self.sites.push(Curve { layer, site, removal, stream_square, covariance });
        Ok(())
    }

    fn layer(&mut self, engine: &E, statistics: &[LayerStatistics], batches: &[Batch<E>]) {
        if let Some(saves) = self.saves {
            saves.save_measured(engine, statistics, &self.sites, batches);
        }
    }
}

impl Curves {
    /// Sends the calibration through the dense model, or the rest of it where a part is finished. Covariances are kept, in a temporary
    /// file, by the recipes that need them again; finished layers go to `saves`. Returns the statistics that FLAP would have taken, too.
    pub fn measure<E: Engine>(
        calibration: &Calibration<'_, E>,
        options: &PlanOptions,
        finished: Option<Measured>,
        saves: Option<&Saves<'_>>,
    ) -> Result<(Self, Statistics)> {
        let &Calibration { engine, model, set, .. } = calibration;
        let begin = Instant::now();
        let (layers, sites, hidden_states) =
            finished.map_or_else(Default::default, |found| (found.layers, found.curves, found.hidden_states));
        if !layers.is_empty() && hidden_states.is_none() {
            return Ok((Self { sites, seconds: None }, Statistics { header: set.measured_on(engine), layers }));
        }
        let all = model.architecture.layers.len();
        let share = (all - layers.len()) as f64 / all as f64;
        let mut measuring = Measuring {
            engine,
            model,
            scratch: keeps_covariances(options.recipe).then(Scratch::new).transpose()?,
            saves,
            sites,
            algebra: 0.0,
        };
        let finished = hidden_states.map(|hidden_states| (layers, hidden_states));
        let statistics = measure(calibration, options.token_weights, finished, &mut measuring)?;
        let Measuring { sites, algebra, .. } = measuring;
        let seconds = Some([(begin.elapsed().as_secs_f64() - algebra) / share, algebra / share]);
        Ok((Self { sites, seconds }, statistics))
    }

    /// From a calibration that kept its covariances.
    pub fn from_statistics<E: Engine>(engine: &E, model: &Model, statistics: &Statistics, progress: &dyn Progress) -> Result<Self> {
        let covariances = statistics.covariances()?;
        progress.start("measuring error curves", "sites", covariances.len() as u64);
        let mut sites = Vec::new();
        for (layer, site, covariance) in covariances {
            covariance.check_finite(&site_name(layer, site))?;
            let matrix = Symmetric::unpacked(covariance);
            let removal = remove_all(engine, room_without_pass(engine), model, (layer, site), matrix, covariance.tokens)?;
            sites.push(Curve { layer, site, removal, stream_square: covariance.stream_square, covariance: Some(covariance.clone()) });
            progress.advance(1);
        }
        progress.finish();
        Ok(Self { sites, seconds: None })
    }

    /// Them with the statistics of the same pass, as saves have both.
    pub fn first_pass<'a>(&'a self, statistics: &'a Statistics) -> FirstPass<'a> {
        FirstPass { layers: &statistics.layers, curves: &self.sites }
    }

    /// Gives the disk back what only the first pass and the search go by.
    pub fn drop_covariances(&mut self) {
        self.sites.iter_mut().for_each(|curve| curve.covariance = None);
    }

    /// The sites as the allocation sees them.
    pub fn allocation_sites(&self, model: &Model, options: &PlanOptions) -> Vec<AllocationSite> {
        let architecture = &model.architecture;
        let site = |curve: &Curve| {
            let attention = curve.site == Site::Attention;
            let (cost, multiple) = match curve.site {
                Site::Attention => {
                    let group = architecture.layers[curve.layer].group_size();
                    (architecture.unit_parameters(curve.layer), options.round_units(group))
                }
                Site::Mlp => (architecture.neuron_parameters(), options.round_neurons),
            };
            // A stream that is nothing but zeros loses nothing.
            let scale = if curve.stream_square > 0.0 { 1.0 / curve.stream_square } else { 0.0 };
            let relative = curve.removal.curve.iter().map(|error| error * scale).collect();
            AllocationSite { cost, curve: relative, multiple: multiple.max(1), fine: !attention }
        };
        self.sites.iter().map(site).collect()
    }

    /// Removed units of every site.
    pub fn allocate(&self, model: &Model, options: &PlanOptions) -> Result<Vec<usize>> {
        let sites = self.allocation_sites(model, options);
        match options.uniform {
            None => super::allocate(&sites, options.ratio),
            Some(uniform) => super::allocate_uniformly(&sites, options.ratio, &uniform.units(&model.architecture)),
        }
    }

    /// Squared errors that the curves predict behind every layer's attention and MLP, relative to the mean square of the residual stream there.
    pub fn errors(&self, removed: &[usize]) -> Vec<[f64; 2]> {
        let error = |(curve, &removed): (&Curve, &usize)| curve.removal.curve[removed] / curve.stream_square.max(f64::MIN_POSITIVE);
        let errors: Vec<f64> = self.sites.iter().zip(removed).map(error).collect();
        errors.as_chunks().0.to_vec()
    }

    /// Layer, site and covariance of every site.
    ///
    /// # Panics
    /// If the recipe keeps none.
    pub fn covariances(&self) -> Vec<(usize, Site, &SiteCovariance)> {
        self.sites.iter().map(|curve| (curve.layer, curve.site, curve.covariance())).collect()
    }

    /// What stays when so many units of every site go.
    pub fn kept(&self, removed: &[usize]) -> Vec<Vec<bool>> {
        let of_site = |(curve, &count): (&Curve, &usize)| keep(&curve.removal.order[..count], curve.removal.order.len());
        self.sites.iter().zip(removed).map(of_site).collect()
    }
}
