//! The running quantities of the FLAP authors' released code, which departs from the paper: updated window by window, they
//! depend on the order of the windows.

use super::Moments;

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub struct CompatMoments {
    /// Windows taken in.
    pub windows: u64,
    /// Mean of the windows' means `[channels]`.
    pub mean: Vec<f64>,
    /// Takes the variance's place `[channels]`.
    pub fluctuation: Vec<f64>,
    /// Takes the second moment's place: a sum over a window's tokens, averaged over windows `[channels]`.
    pub square: Vec<f64>,
}

impl CompatMoments {
    /// Nothing taken in yet.
    #[must_use]
    pub fn empty(channels: usize) -> Self {
        Self { windows: 0, mean: vec![0.0; channels], fluctuation: vec![0.0; channels], square: vec![0.0; channels] }
    }

    /// Takes in the next window, given by its moments: sums over its tokens follow from them.
    pub fn push(&mut self, window: &Moments) {
        let (k, tokens) = (self.windows as f64, window.count as f64);
        for channel in 0..self.mean.len() {
            let (mean, m2) = (window.mean[channel], window.m2[channel]);
            let new_mean = (k * self.mean[channel] + mean) / (k + 1.0);
            if self.windows > 0 {
                let around_new_mean = m2 + tokens * (mean - new_mean) * (mean - new_mean);
                self.fluctuation[channel] = self.fluctuation[channel] * (k - 1.0) / k + around_new_mean / (k + 1.0);
            }
            self.square[channel] = self.square[channel] * k / (k + 1.0) + (m2 + tokens * mean * mean) / (k + 1.0);
            self.mean[channel] = new_mean;
        }
        self.windows += 1;
    }
}
