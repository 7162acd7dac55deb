//! The running quantities of the FLAP authors' released code, which departs from the paper: updated window by window, they
//! depend on the order of the windows.

use super::Moments;
use super::moments::PART;
use rayon::prelude::*;

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

    /// Takes in the next windows, given by their moments: sums over their tokens follow from them.
    pub fn push(&mut self, windows: &[Moments]) {
        let before = self.windows;
        let channels = self.mean.par_chunks_mut(PART).zip(self.fluctuation.par_chunks_mut(PART)).zip(self.square.par_chunks_mut(PART));
        channels.enumerate().for_each(|(index, ((mean, fluctuation), square))| {
            for (window, k) in windows.iter().zip(before..) {
                let (is_first, k, tokens) = (k == 0, k as f64, window.count as f64);
                for (place, own) in mean.iter_mut().enumerate() {
                    let channel = index * PART + place;
                    let (mean, m2) = (window.mean[channel], window.m2[channel]);
                    let new_mean = (k * *own + mean) / (k + 1.0);
                    if !is_first {
                        let around_new_mean = m2 + tokens * (mean - new_mean) * (mean - new_mean);
                        fluctuation[place] = fluctuation[place] * (k - 1.0) / k + around_new_mean / (k + 1.0);
                    }
                    square[place] = square[place] * k / (k + 1.0) + (m2 + tokens * mean * mean) / (k + 1.0);
                    *own = new_mean;
                }
            }
        });
        self.windows += windows.len() as u64;
    }
}
