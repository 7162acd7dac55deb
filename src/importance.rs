//! How much each channel of a site matters: the fluctuation metrics of FLAP (arXiv 2312.11983, section 3.1) and the scores of the
//! baselines. Pure functions from statistics.

use crate::architecture::Site;
use crate::statistics::SiteStatistics;

/// A metric of FLAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Variance of the channel times the squared norm of its weights.
    #[default]
    Wifv,
    /// Variance of the channel.
    Ifv,
    /// Mean absolute weight times the root of the channel's second moment.
    Wifn,
}

impl Metric {
    /// Score of each channel. At the attention site it is squared, as in the authors' code.
    #[must_use]
    pub fn channel_scores(self, site: Site, statistics: &SiteStatistics) -> Vec<f64> {
        let mut scores = match self {
            Self::Ifv => statistics.fluctuation(),
            Self::Wifv => product(&statistics.fluctuation(), &statistics.weight_square_sum),
            Self::Wifn => wanda(statistics),
        };
        if site == Site::Attention {
            scores.iter_mut().for_each(|score| *score *= *score);
        }
        scores
    }
}

/// Wanda's score of each channel: mean absolute weight times the root of the second moment.
#[must_use]
pub fn wanda(statistics: &SiteStatistics) -> Vec<f64> {
    let roots: Vec<f64> = statistics.square().into_iter().map(f64::sqrt).collect();
    product(&roots, &statistics.weight_absolute_mean)
}

/// The norm of each column of weights.
#[must_use]
pub fn magnitude(square_sums: &[f32]) -> Vec<f64> {
    square_sums.iter().map(|&square| f64::from(square).sqrt()).collect()
}

fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}
