//! Channel moments on the CPU, in f64: two passes over each window, then Chan's merge into the window's slot.

use super::vectors::vectorised;
use crate::engine::{MomentsShape, SlotMoments};
use rayon::prelude::*;

/// Channels handled by one task: their running sums stay in the L1 cache, and a row of them is long enough to be fetched well.
const CHANNELS: usize = 256;

/// Running moments of all slots of a site.
pub struct Moments {
    shape: MomentsShape,
    /// Per chunk of channels: `[slots][channels]` of mean and sum of squared deviations.
    chunks: Vec<Vec<(f64, f64)>>,
}

impl Moments {
    /// Nothing taken in yet.
    #[must_use]
    pub fn new(shape: MomentsShape) -> Self {
        let chunks = (0..shape.channels)
            .step_by(CHANNELS)
            .map(|first| vec![(0.0, 0.0); shape.slots() * CHANNELS.min(shape.channels - first)])
            .collect();
        Self { shape, chunks }
    }

    /// Takes in whole windows `[windows * window_tokens, channels]`, of which the first is window `first_window`.
    pub fn accumulate(&mut self, x: &[f32], columns: usize, first_window: usize) {
        let MomentsShape { channels, windows, window_tokens, windows_per_slot } = self.shape;
        let rows = x.len() / channels;
        assert!(columns == channels && rows.is_multiple_of(window_tokens), "activations do not fit the moments");
        assert!(first_window + rows / window_tokens <= windows, "more windows than the moments have");
        let tokens = window_tokens as f64;
        self.chunks.par_iter_mut().enumerate().for_each(|(index, chunk)| {
            let first = index * CHANNELS;
            let width = CHANNELS.min(channels - first);
            for (offset, window) in x.chunks_exact(window_tokens * channels).enumerate() {
                let rows = || window.chunks_exact(channels).map(|row| &row[first..first + width]);
                let (mut mean, mut m2) = ([0.0f64; CHANNELS], [0.0f64; CHANNELS]);
                vectorised(
                    #[inline(always)]
                    || {
                        for row in rows() {
                            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v));
                        }
                        mean.iter_mut().for_each(|m| *m /= tokens);
                        for row in rows() {
                            for ((s, m), &v) in m2.iter_mut().zip(&mean).zip(row) {
                                let deviation = f64::from(v) - m;
                                *s += deviation * deviation;
                            }
                        }
                    },
                );
                let window = first_window + offset;
                let before = (window % windows_per_slot * window_tokens) as f64;
                let slot = window / windows_per_slot * width;
                for ((state, mean), m2) in chunk[slot..slot + width].iter_mut().zip(mean).zip(m2) {
                    let delta = mean - state.0;
                    let total = before + tokens;
                    state.0 += delta * (tokens / total);
                    state.1 += m2 + delta * delta * (before * tokens / total);
                }
            }
        });
    }

    /// The moments of every slot.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotMoments> {
        (0..self.shape.slots())
            .map(|slot| {
                let state = || {
                    self.chunks.iter().enumerate().flat_map(move |(index, chunk)| {
                        let width = CHANNELS.min(self.shape.channels - index * CHANNELS);
                        &chunk[slot * width..(slot + 1) * width]
                    })
                };
                SlotMoments {
                    count: self.shape.slot_tokens(slot) as u64,
                    mean: state().map(|s| s.0).collect(),
                    m2: state().map(|s| s.1).collect(),
                }
            })
            .collect()
    }
}
