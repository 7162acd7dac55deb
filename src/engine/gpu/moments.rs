//! Running moments of channels: tiles of tokens in parallel, merged into slots in the order of the windows.

use super::context::Job;
use super::pool::Buffer;
use super::{GpuEngine, Kernel, Tensor, grid, words};
use crate::engine::{MomentsShape, SlotMoments};
use crate::error::Result;
use rayon::prelude::*;

/// Tokens one thread walks before its moments are merged: enough threads for a batch of few windows, little to merge.
const TILE_TOKENS: usize = 128;

/// Running moments of a site: `[slots, channels]` of pivot, mean relative to it, and sum of squared deviations.
pub struct Moments {
    shape: MomentsShape,
    slots: Buffer,
}

impl GpuEngine {
    /// See [`crate::engine::Engine::moments`].
    pub(super) fn empty_moments(&self, shape: MomentsShape) -> Result<Moments> {
        let slots = self.context.buffer(16 * (shape.slots() * shape.channels) as u64)?;
        self.context.clear(&slots)?;
        Ok(Moments { shape, slots })
    }

    /// See [`crate::engine::Engine::accumulate`].
    pub(super) fn accumulate_moments(&self, moments: &Moments, x: &Tensor, first_window: usize) -> Result<()> {
        let MomentsShape { channels, window_tokens, windows_per_slot, .. } = moments.shape;
        let windows = x.rows / window_tokens;
        assert!(x.columns == channels && x.rows.is_multiple_of(window_tokens), "activations do not fit the moments");
        assert!(first_window + windows <= moments.shape.windows, "more windows than the moments have");
        let tiles_per_window = window_tokens.div_ceil(TILE_TOKENS);
        let tiles = windows * tiles_per_window;
        let tile_moments = self.tensor(tiles, 2 * channels)?;
        let params = words([channels, window_tokens, TILE_TOKENS, tiles_per_window, tiles]);
        let buffers = [(1, x.buffer()), (2, tile_moments.buffer())];
        let operation = || format!("[{}, {channels}]", x.rows);
        let workgroups = grid(channels, tiles);
        self.context.dispatch(
            &Job { kernel: Kernel::MomentsTile, constants: &[], params: &params, buffers: &buffers, workgroups },
            0,
            operation,
        )?;
        let params = words([channels, window_tokens, TILE_TOKENS, tiles_per_window, windows, first_window, windows_per_slot]);
        let buffers = [(1, tile_moments.buffer()), (2, &moments.slots)];
        let workgroups = grid(channels, 1);
        self.context.dispatch(
            &Job { kernel: Kernel::MomentsMerge, constants: &[], params: &params, buffers: &buffers, workgroups },
            0,
            operation,
        )
    }

    /// See [`crate::engine::Engine::read_moments`].
    pub(super) fn slots_of(&self, moments: &Moments) -> Result<Vec<SlotMoments>> {
        let MomentsShape { channels, .. } = moments.shape;
        let state: Vec<[f32; 4]> = self.context.download(&moments.slots, moments.shape.slots() * channels)?;
        let slot = |(slot, state): (usize, &[[f32; 4]])| SlotMoments {
            count: moments.shape.slot_tokens(slot) as u64,
            mean: state.iter().map(|s| f64::from(s[0]) + f64::from(s[1])).collect(),
            m2: state.iter().map(|s| f64::from(s[2])).collect(),
        };
        Ok(state.par_chunks_exact(channels).enumerate().map(slot).collect())
    }
}
