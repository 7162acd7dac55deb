//! Covariances of a site's channels, which the recipes beyond FLAP need: half of a symmetric matrix in f32, in a file.

use super::{Header, Statistics};
use crate::architecture::Site;
use crate::disk::Scratch;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor};
use rayon::prelude::*;

/// How much a token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TokenWeights {
    /// All tokens the same
    #[default]
    Equal,
    /// By the inverse square of the norm of the dense residual stream behind the site, so that a few tokens of massive activation do not
    /// outweigh all others
    InverseSquare,
}

impl TokenWeights {
    /// Whether all tokens count the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        *self == Self::Equal
    }
}

/// Second moments of one site over all tokens, as they count.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteCovariance {
    /// Tokens seen.
    pub tokens: u64,
    /// What the tokens count, together.
    pub weight: f64,
    /// Mean square of the residual stream behind the site, summed over its channels: what an error of the site's output is to be divided by.
    pub stream_square: f64,
    /// Mean `[channels]`.
    pub mean: Vec<f64>,
    /// The covariance in f32, column by column down to the diagonal.
    pub packed: HostTensor,
}

/// Numbers in half a symmetric matrix.
#[must_use]
pub fn packed_length(channels: usize) -> usize {
    channels * (channels + 1) / 2
}

impl SiteCovariance {
    /// A column down to the diagonal.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f64> {
        let (numbers, _) = self.packed.bytes.as_ref().as_chunks::<4>();
        let first = packed_length(column);
        numbers[first..=first + column].iter().map(|&number| f64::from(f32::from_le_bytes(number)))
    }

    /// Fails unless all of it is finite. `what` says whose it is.
    pub fn check_finite(&self, what: &str) -> Result<()> {
        if self.packed.is_finite() {
            return Ok(());
        }
        Err(Error::NotFinite(format!("NaN or infinity in the statistics' covariance of {what}; run `flap-gpu calibrate` again")))
    }

    /// That of all parts' tokens, in f64 and rounded at the end.
    pub fn merge(parts: &[&Self], scratch: &mut Scratch) -> Result<Self> {
        let weight: f64 = parts.iter().map(|part| part.weight).sum();
        let share = |part: &Self| part.weight / weight;
        let channels = parts[0].mean.len();
        let mean: Vec<f64> = (0..channels).map(|i| parts.iter().map(|part| share(part) * part.mean[i]).sum()).collect();
        let columns = (0..channels).into_par_iter().flat_map_iter(|j| {
            let mut column = vec![0.0; j + 1];
            for part in parts {
                let (share, away) = (share(part), part.mean[j] - mean[j]);
                let entries = part.column(j).zip(part.mean.iter().zip(&mean));
                column.iter_mut().zip(entries).for_each(|(sum, (entry, (own, all)))| *sum += share * (entry + (own - all) * away));
            }
            column.into_iter().map(|value| value as f32)
        });
        let packed: Vec<f32> = columns.collect();
        let packed = scratch.keep(bytemuck::cast_slice(&packed), Dtype::F32, 1, packed.len())?;
        let stream_square = parts.iter().map(|part| share(part) * part.stream_square).sum();
        let tokens = parts.iter().map(|part| part.tokens).sum();
        Ok(Self { tokens, weight, stream_square, mean, packed })
    }
}

impl Header {
    /// How much tokens counted.
    ///
    /// # Errors
    /// If the statistics hold no covariances.
    pub fn token_weights(&self) -> Result<TokenWeights> {
        self.covariances.ok_or_else(no_covariances)
    }
}

impl Statistics {
    /// Layer, site and covariance of every site.
    ///
    /// # Errors
    /// If the statistics hold none.
    pub fn covariances(&self) -> Result<Vec<(usize, Site, &SiteCovariance)>> {
        let sites = self.layers.iter().enumerate().flat_map(|(index, layer)| Site::BOTH.map(|site| (index, site, &layer[site])));
        let found: Option<Vec<_>> = sites.map(|(layer, site, measured)| Some((layer, site, measured.covariance.as_ref()?))).collect();
        found.ok_or_else(no_covariances)
    }
}

fn no_covariances() -> Error {
    Error::input(
        "the statistics hold no covariances, which this recipe needs: calibrate with --covariances, or use `flap-gpu prune --recipe ...`",
    )
}
