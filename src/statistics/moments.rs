//! Exact moments of channels, merged by the formula of Chan, Golub and LeVeque.

use rayon::prelude::*;

/// Channels that one thread takes at least: fewer are done sooner than handed over.
const SHORT_PART: usize = 1024;

/// Count, mean and sum of squared deviations per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Tokens.
    pub count: u64,
    /// Mean `[channels]`.
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean `[channels]`.
    pub m2: Vec<f64>,
}

impl Moments {
    /// Moments of no tokens.
    #[must_use]
    pub fn empty(channels: usize) -> Self {
        Self { count: 0, mean: vec![0.0; channels], m2: vec![0.0; channels] }
    }

    /// Takes in the moments of other tokens.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (before, added) = (self.count as f64, other.count as f64);
        let share = added / (before + added);
        let channels = self.mean.par_iter_mut().zip(&mut self.m2).zip(other.mean.par_iter().zip(&other.m2));
        channels.with_min_len(SHORT_PART).for_each(|((mean, m2), (other_mean, other_m2))| {
            let delta = other_mean - *mean;
            *mean += delta * share;
            *m2 += other_m2 + delta * delta * before * share;
        });
        self.count += other.count;
    }

    /// Sample variance, divided by `count - 1`; 0 for a single token.
    #[must_use]
    pub fn variance(&self) -> Vec<f64> {
        let divisor = self.count.saturating_sub(1).max(1) as f64;
        self.m2.iter().map(|m2| m2 / divisor).collect()
    }

    /// Mean of the squares.
    #[must_use]
    pub fn second_moment(&self) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        self.m2.iter().zip(&self.mean).map(|(m2, mean)| m2 / count + mean * mean).collect()
    }
}
