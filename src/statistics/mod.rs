//! What calibration measures: per layer and site the moments of every input channel, with the column norms of the projection
//! that reads it. Knows of models only that a layer has two sites.

mod compat;
mod covariance;
mod file;
mod moments;

pub use compat::CompatMoments;
pub use covariance::{SiteCovariance, TokenWeights, packed_length};
pub use file::{Header, Mode, read, write};
pub use moments::Moments;

use crate::architecture::{PerSite, Site};
use crate::disk::Scratch;
use crate::error::{Error, Result};

/// How the channels of a site spread.
#[derive(Debug, Clone, PartialEq)]
pub enum Spread {
    /// Exact moments over all tokens.
    Exact(Moments),
    /// The quantities of the authors' released code.
    Compat(CompatMoments),
}

/// Measurements of one site of one layer; all vectors are `[channels]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteStatistics {
    /// Of the channels.
    pub spread: Spread,
    /// Per column of the projection: the sum of squared weights.
    pub weight_square_sum: Vec<f64>,
    /// Per column of the projection: the mean absolute weight.
    pub weight_absolute_mean: Vec<f64>,
    /// The covariance of the channels, where it was asked for.
    pub covariance: Option<SiteCovariance>,
}

impl SiteStatistics {
    /// Channels of the site.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.mean().len()
    }

    /// Mean activation per channel.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        match &self.spread {
            Spread::Exact(moments) => &moments.mean,
            Spread::Compat(moments) => &moments.mean,
        }
    }

    /// The fluctuation: the variance, or the quantity that takes its place in compat mode.
    #[must_use]
    pub fn fluctuation(&self) -> Vec<f64> {
        match &self.spread {
            Spread::Exact(moments) => moments.variance(),
            Spread::Compat(moments) => moments.fluctuation.clone(),
        }
    }

    /// The second moment, up to a constant factor per site.
    #[must_use]
    pub fn square(&self) -> Vec<f64> {
        match &self.spread {
            Spread::Exact(moments) => moments.second_moment(),
            Spread::Compat(moments) => moments.square.clone(),
        }
    }
}

/// Both sites of a layer.
pub type LayerStatistics = PerSite<SiteStatistics>;

/// A calibration's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// What was measured on what.
    pub header: Header,
    /// One per decoder layer.
    pub layers: Vec<LayerStatistics>,
}

/// Merges the statistics of disjoint window ranges of one calibration.
///
/// # Errors
/// If they do not belong together: another model, text, seed, length, number of samples, or windows counted twice.
pub fn merge(parts: Vec<Statistics>) -> Result<Statistics> {
    let mut parts = parts;
    parts.sort_by_key(|part| part.header.windows.first().map(|range| range.start));
    let Some((first, others)) = parts.split_first() else { return Err(Error::input("there are no statistics to merge")) };
    let mut merged = first.clone();
    others.iter().try_for_each(|part| merged.header.join(&part.header))?;
    let mut scratch = Scratch::new()?;
    for (index, layer) in merged.layers.iter_mut().enumerate() {
        for site in Site::BOTH {
            let into = &mut layer[site];
            let same = || parts.iter().map(|part| part.layers.get(index).map(|layer| &layer[site]));
            if !same().all(|part| part.is_some_and(|part| part.channels() == into.channels())) {
                return Err(Error::input("the statistics do not belong together: their layers differ in size"));
            }
            for other in same().flatten().skip(1) {
                match (&mut into.spread, &other.spread) {
                    (Spread::Exact(into), Spread::Exact(from)) => into.merge(std::slice::from_ref(from)),
                    _ => {
                        return Err(Error::input("statistics taken with --compat depend on the order of all windows and cannot be merged"));
                    }
                }
            }
            let covariances: Vec<&SiteCovariance> = same().flatten().filter_map(|part| part.covariance.as_ref()).collect();
            if covariances.len() > 1 {
                into.covariance = Some(SiteCovariance::merge(&covariances, &mut scratch)?);
            }
        }
    }
    Ok(merged)
}
