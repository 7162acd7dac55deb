//! Second moments of activations over all tokens: products on the device, gathered in f32 over a few thousand tokens, then added up in
//! f64 on the host.

use super::linear_algebra::parallel;
use crate::engine::{Engine, MomentsShape, Shifted};
use crate::error::{Error, Result};
use crate::pass::{Batch, Pass};
use crate::statistics::Moments;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};
use rayon::prelude::*;
use std::ops::Range;

/// Tokens that are summed in f32 before they are added in f64.
const CHUNK_TOKENS: usize = 4096;

/// Sums of products of `a` with `b`, or of `a` with itself, seen from points near their means.
pub struct Cross<E: Engine> {
    shift_a: E::Tensor,
    /// Point of the other side; none where `a` is both.
    shift_b: Option<E::Tensor>,
    b_columns: usize,
    /// Columns of `a` and their sums on the device.
    panels: Vec<(Range<usize>, Option<E::Tensor>)>,
    /// Tokens that are on the device only.
    pending: usize,
    /// `[a, b]`.
    sum: Mat<f64>,
}

impl<E: Engine> Cross<E> {
    /// Without `shift_b` the products are of `a` with itself.
    pub fn new(engine: &E, shift_a: &[f32], shift_b: Option<&[f32]>) -> Result<Self> {
        let a_columns = shift_a.len();
        let b_columns = shift_b.map_or(a_columns, <[f32]>::len);
        let rows = (engine.info().max_binding_bytes as usize / (4 * b_columns)).clamp(1, a_columns);
        let panels = (0..a_columns).step_by(rows).map(|first| (first..(first + rows).min(a_columns), None)).collect();
        let shift_b = shift_b.map(|shift| engine.upload(shift, b_columns)).transpose()?;
        let sum = Mat::zeros(a_columns, b_columns);
        Ok(Self { shift_a: engine.upload(shift_a, a_columns)?, shift_b, b_columns, panels, pending: 0, sum })
    }

    /// Adds activations `[tokens, a]` and, where there is another side, `[tokens, b]`.
    pub fn add(&mut self, engine: &E, a: &E::Tensor, b: &E::Tensor, tokens: usize) -> Result<()> {
        let left = Shifted { x: a, shift: &self.shift_a };
        let right = self.shift_b.as_ref().map_or(left, |shift| Shifted { x: b, shift });
        for (columns, panel) in &mut self.panels {
            let mut sum = match panel.take() {
                Some(sum) => sum,
                None => engine.zeros(columns.len(), self.b_columns)?,
            };
            engine.add_cross(&mut sum, left, columns.clone(), right, self.shift_b.is_none())?;
            *panel = Some(sum);
        }
        self.pending += tokens;
        if self.pending >= CHUNK_TOKENS { self.gather(engine) } else { Ok(()) }
    }

    /// Moves what the device has to the host.
    fn gather(&mut self, engine: &E) -> Result<()> {
        self.pending = 0;
        let width = self.b_columns;
        for (columns, panel) in &mut self.panels {
            let Some(device) = panel.take() else { continue };
            let values = engine.download(&device)?;
            let rows = self.sum.subrows_mut(columns.start, columns.len());
            rows.par_col_iter_mut().enumerate().for_each(|(j, column)| {
                column.iter_mut().zip(values.iter().skip(j).step_by(width)).for_each(|(sum, &value)| *sum += f64::from(value));
            });
        }
        Ok(())
    }

    /// The sums `[a, b]`; of `a` with itself, both triangles.
    pub fn finish(mut self, engine: &E) -> Result<Mat<f64>> {
        self.gather(engine)?;
        let mut sum = self.sum;
        if self.shift_b.is_none() {
            for j in 0..self.b_columns {
                for i in 0..j {
                    sum[(i, j)] = sum[(j, i)];
                }
            }
        }
        Ok(sum)
    }
}

/// Mean and covariance of a site's activations, and their covariance with a target.
pub struct SiteMoments {
    /// Tokens.
    pub count: u64,
    /// `[channels]`.
    pub mean: Vec<f64>,
    /// `[channels, channels]`.
    pub covariance: Mat<f64>,
    /// Mean of the target `[outputs]`, and `[channels, outputs]`; none where none was given.
    pub target: Option<(Vec<f64>, Mat<f64>)>,
}

/// Gathers [`SiteMoments`].
pub struct SiteSums<E: Engine> {
    with_target: bool,
    sums: Option<Sums<E>>,
}

/// Of one side: the point it is seen from, and the moments that give its mean.
struct Side<E: Engine> {
    shift: Vec<f32>,
    moments: E::Moments,
}

struct Sums<E: Engine> {
    site: Side<E>,
    target: Option<Side<E>>,
    gram: Cross<E>,
    cross: Option<Cross<E>>,
}

impl<E: Engine> SiteSums<E> {
    /// Nothing gathered yet.
    pub fn new(with_target: bool) -> Self {
        Self { with_target, sums: None }
    }

    /// Adds the activations of a batch, and their target.
    pub fn add(&mut self, pass: &Pass<'_, E>, batch: &Batch<E>, x: &E::Tensor, target: Option<&E::Tensor>) -> Result<()> {
        debug_assert_eq!(self.with_target, target.is_some());
        let engine = pass.engine;
        if self.sums.is_none() {
            let site = Side::new(pass, batch, x)?;
            let other = target.map(|y| Side::new(pass, batch, y)).transpose()?;
            let gram = Cross::new(engine, &site.shift, None)?;
            let cross = other.as_ref().map(|other| Cross::new(engine, &site.shift, Some(&other.shift))).transpose()?;
            self.sums = Some(Sums { site, target: other, gram, cross });
        }
        let Some(sums) = &mut self.sums else { return Ok(()) };
        let tokens = batch.windows * pass.window_tokens;
        engine.accumulate(&mut sums.site.moments, x, batch.first_window)?;
        sums.gram.add(engine, x, x, tokens)?;
        if let (Some(side), Some(cross), Some(y)) = (&mut sums.target, &mut sums.cross, target) {
            engine.accumulate(&mut side.moments, y, batch.first_window)?;
            cross.add(engine, x, y, tokens)?;
        }
        Ok(())
    }

    /// Means and covariances over all tokens. `what` names the site in errors.
    ///
    /// # Panics
    /// If nothing was added.
    pub fn finish(self, engine: &E, what: &str) -> Result<SiteMoments> {
        let sums = self.sums.expect("a pass has windows");
        let site = moments(engine, &sums.site.moments)?;
        let count = site.count as f64;
        let away =
            |moments: &Moments, shift: &[f32]| -> Mat<f64> { Mat::from_fn(shift.len(), 1, |i, _| moments.mean[i] - f64::from(shift[i])) };
        let site_away = away(&site, &sums.site.shift);
        let centred = |sum: Mat<f64>, other: &Mat<f64>| -> Mat<f64> {
            let mut centred = sum;
            centred.par_col_iter_mut().for_each(|column| column.iter_mut().for_each(|value| *value /= count));
            matmul(&mut centred, Accum::Add, &site_away, other.transpose(), -1.0, parallel());
            centred
        };
        let covariance = centred(sums.gram.finish(engine)?, &site_away);
        let target = match (sums.target, sums.cross) {
            (Some(side), Some(cross)) => {
                let target = moments(engine, &side.moments)?;
                let other = away(&target, &side.shift);
                Some((target.mean, centred(cross.finish(engine)?, &other)))
            }
            _ => None,
        };
        if let Some(channel) = (0..covariance.nrows()).find(|&i| !covariance[(i, i)].is_finite()) {
            return Err(Error::NotFinite(format!(
                "NaN or infinity appeared at {what}, channel {channel}; the checkpoint is damaged, or its activations overflow f32"
            )));
        }
        Ok(SiteMoments { count: site.count, mean: site.mean, covariance, target })
    }
}

impl<E: Engine> Side<E> {
    /// Seen from the mean of the first batch.
    fn new(pass: &Pass<'_, E>, batch: &Batch<E>, x: &E::Tensor) -> Result<Self> {
        let channels = pass.engine.columns(x);
        let mut first = pass.engine.moments(shape(channels, batch.windows, pass.window_tokens))?;
        pass.engine.accumulate(&mut first, x, 0)?;
        let shift = moments(pass.engine, &first)?.mean.iter().map(|&mean| mean as f32).collect();
        Ok(Self { shift, moments: pass.engine.moments(shape(channels, pass.windows, pass.window_tokens))? })
    }
}

/// Slots of a few windows, as many as calibration takes.
fn shape(channels: usize, windows: usize, window_tokens: usize) -> MomentsShape {
    MomentsShape { channels, windows, window_tokens, windows_per_slot: windows.div_ceil(64) }
}

/// Moments of all tokens of a pass, of which the mean square of the residual stream is made.
pub fn stream_moments<E: Engine>(pass: &Pass<'_, E>, channels: usize) -> Result<E::Moments> {
    pass.engine.moments(shape(channels, pass.windows, pass.window_tokens))
}

/// What the device has gathered.
pub fn moments<E: Engine>(engine: &E, moments: &E::Moments) -> Result<Moments> {
    let slots = engine.read_moments(moments)?;
    let mut all = Moments::empty(slots.first().map_or(0, |slot| slot.mean.len()));
    slots.into_iter().for_each(|slot| all.merge(&Moments { count: slot.count, mean: slot.mean, m2: slot.m2 }));
    Ok(all)
}
