//! Exact moments of channels, merged by the formula of Chan, Golub and LeVeque.

use rayon::prelude::*;

/// Channels that a thread takes through all parts: they stay in its cache.
pub(super) const PART: usize = 512;

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

    /// Takes in the moments of other tokens, part by part.
    pub fn merge(&mut self, parts: &[Self]) {
        let mut count = self.count;
        // With each part what was seen before it, and its share of both.
        let mut shares = Vec::with_capacity(parts.len());
        for part in parts.iter().filter(|part| part.count > 0) {
            let (before, added) = (count as f64, part.count as f64);
            shares.push((part, before, added / (before + added)));
            count += part.count;
        }
        self.mean.par_chunks_mut(PART).zip(self.m2.par_chunks_mut(PART)).enumerate().for_each(|(index, (mean, m2))| {
            let channels = index * PART..index * PART + mean.len();
            for &(part, before, share) in &shares {
                let others = part.mean[channels.clone()].iter().zip(&part.m2[channels.clone()]);
                for ((mean, m2), (other_mean, other_m2)) in mean.iter_mut().zip(&mut *m2).zip(others) {
                    let delta = other_mean - *mean;
                    *mean += delta * share;
                    *m2 += other_m2 + delta * delta * before * share;
                }
            }
        });
        self.count = count;
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
