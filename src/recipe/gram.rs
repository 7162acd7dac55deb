//! Second moments of activations over all tokens: products on the device, gathered in f32 over a few thousand tokens, then added up in
//! f64 on the host.

use super::linear_algebra::parallel;
use super::symmetric::Symmetric;
use crate::engine::Engine;
use crate::error::Result;
use crate::statistics::TokenWeights;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};
use rayon::prelude::*;
use std::ops::Range;

/// Tokens that are summed in f32 before they are added in f64.
const CHUNK_TOKENS: usize = 4096;
/// Columns whose products are kept in one tensor of the device, where it can bind them.
const DEVICE_COLUMNS: usize = 2048;

/// Mean square of a stream's tokens, as they count, from the inverse norms `[tokens, 1]` of all batches.
pub fn mean_square<E: Engine>(engine: &E, token_weights: TokenWeights, inverse_norms: &[E::Tensor]) -> Result<f64> {
    let (mut tokens, mut sum) = (0, 0.0);
    for batch in inverse_norms {
        let values = engine.download(batch)?;
        let square = |&inverse: &f32| match token_weights {
            TokenWeights::Equal if inverse > 0.0 => f64::from(inverse).powi(-2),
            TokenWeights::Equal => 0.0,
            TokenWeights::InverseSquare => f64::from(inverse).powi(2),
        };
        tokens += values.len();
        sum += values.iter().map(square).sum::<f64>();
    }
    Ok(match token_weights {
        TokenWeights::Equal => sum / tokens as f64,
        // What a weighted mean of errors is to be divided by for the mean of each token's own relative error.
        TokenWeights::InverseSquare => tokens as f64 / sum,
    })
}

/// Sums of products `a^T b` over tokens, panel by panel of the columns of `a`.
struct Products<E: Engine> {
    b_columns: usize,
    /// `b` is `a`: what lies behind the diagonal of a panel is left out.
    symmetric: bool,
    panels: Vec<(Range<usize>, Option<E::Tensor>)>,
    /// Tokens that are on the device only.
    pending: usize,
}

impl<E: Engine> Products<E> {
    fn new(engine: &E, a_columns: usize, b_columns: usize, symmetric: bool) -> Self {
        let bindable = (engine.info().max_binding_bytes / (4 * b_columns as u64)).max(1);
        let rows = bindable.min(DEVICE_COLUMNS as u64) as usize;
        let panels = (0..a_columns).step_by(rows).map(|first| (first..(first + rows).min(a_columns), None)).collect();
        Self { b_columns, symmetric, panels, pending: 0 }
    }

    fn width(&self, columns: &Range<usize>) -> usize {
        if self.symmetric { columns.end } else { self.b_columns }
    }

    /// Adds `[tokens, a]` by `[tokens, b]`. `gather` takes columns of `a` with their sums, row by row of so many numbers.
    fn add(
        &mut self,
        engine: &E,
        a: &E::Tensor,
        b: &E::Tensor,
        tokens: usize,
        gather: impl FnMut(Range<usize>, &[f32], usize),
    ) -> Result<()> {
        for index in 0..self.panels.len() {
            let (columns, panel) = &mut self.panels[index];
            let (columns, taken) = (columns.clone(), panel.take());
            let mut sum = taken.map_or_else(|| engine.zeros(columns.len(), self.width(&columns)), Ok)?;
            engine.add_cross(&mut sum, a, columns, b, self.symmetric)?;
            self.panels[index].1 = Some(sum);
        }
        self.pending += tokens;
        if self.pending >= CHUNK_TOKENS { self.drain(engine, gather) } else { Ok(()) }
    }

    /// Moves what the device has to the host.
    fn drain(&mut self, engine: &E, mut gather: impl FnMut(Range<usize>, &[f32], usize)) -> Result<()> {
        self.pending = 0;
        for index in 0..self.panels.len() {
            let (columns, panel) = &mut self.panels[index];
            let (columns, Some(device)) = (columns.clone(), panel.take()) else { continue };
            gather(columns.clone(), &engine.download(&device)?, self.width(&columns));
        }
        Ok(())
    }
}

/// The sum of products of `a` with itself.
pub struct Gram<E: Engine> {
    products: Products<E>,
    sum: Symmetric,
}

impl<E: Engine> Gram<E> {
    /// Of activations `[tokens, columns]`.
    pub fn new(engine: &E, columns: usize) -> Self {
        Self { products: Products::new(engine, columns, columns, true), sum: Symmetric::zeros(columns) }
    }

    fn gather(sum: &mut Symmetric) -> impl FnMut(Range<usize>, &[f32], usize) {
        |columns, values, width| {
            sum.each_column(|j, column| {
                if columns.contains(&j) {
                    let from = &values[(j - columns.start) * width..];
                    column.iter_mut().zip(from).for_each(|(sum, &value)| *sum += f64::from(value));
                }
            });
        }
    }

    /// Adds `[tokens, columns]`.
    pub fn add(&mut self, engine: &E, a: &E::Tensor, tokens: usize) -> Result<()> {
        self.products.add(engine, a, a, tokens, Self::gather(&mut self.sum))
    }

    /// The sum over all tokens.
    pub fn finish(mut self, engine: &E) -> Result<Symmetric> {
        self.products.drain(engine, Self::gather(&mut self.sum))?;
        Ok(self.sum)
    }
}

/// The sum of products of `a` with `b`.
pub struct Cross<E: Engine> {
    products: Products<E>,
    /// `[b, a]`.
    sum: Mat<f64>,
}

impl<E: Engine> Cross<E> {
    /// Of activations `[tokens, a_columns]` and `[tokens, b_columns]`.
    pub fn new(engine: &E, a_columns: usize, b_columns: usize) -> Self {
        Self { products: Products::new(engine, a_columns, b_columns, false), sum: Mat::zeros(b_columns, a_columns) }
    }

    fn gather(sum: &mut Mat<f64>) -> impl FnMut(Range<usize>, &[f32], usize) {
        |columns, values, width| {
            sum.subcols_mut(columns.start, columns.len())
                .par_col_iter_mut()
                .zip(values.par_chunks_exact(width))
                .for_each(|(column, from)| column.iter_mut().zip(from).for_each(|(sum, &value)| *sum += f64::from(value)));
        }
    }

    /// Adds `[tokens, a]` and `[tokens, b]`.
    pub fn add(&mut self, engine: &E, a: &E::Tensor, b: &E::Tensor, tokens: usize) -> Result<()> {
        self.products.add(engine, a, b, tokens, Self::gather(&mut self.sum))
    }

    /// The sum over all tokens, `[b, a]`.
    pub fn finish(mut self, engine: &E) -> Result<Mat<f64>> {
        self.products.drain(engine, Self::gather(&mut self.sum))?;
        Ok(self.sum)
    }
}

/// Mean and covariance of a site's activations, and their covariance with a target.
pub struct SiteMoments {
    /// What the tokens count, together.
    pub weight: f64,
    /// `[channels]`.
    pub mean: Vec<f64>,
    /// `[channels, channels]`.
    pub covariance: Symmetric,
    /// Mean of the target `[outputs]`, and `[outputs, channels]`; none where none was given.
    pub target: Option<(Vec<f64>, Mat<f64>)>,
}

/// Gathers [`SiteMoments`].
pub struct SiteSums<E: Engine>(Option<Sums<E>>);

/// Activations seen from a point near their mean, so that sums of products do not cancel.
struct Side<E: Engine> {
    shift: Vec<f32>,
    on_device: E::Tensor,
    /// How far their mean is from there.
    away: Cross<E>,
}

struct Sums<E: Engine> {
    weight: Cross<E>,
    site: Side<E>,
    gram: Gram<E>,
    target: Option<(Side<E>, Cross<E>)>,
}

impl<E: Engine> SiteSums<E> {
    /// Nothing gathered yet.
    pub fn new() -> Self {
        Self(None)
    }

    /// Adds the activations `x` of so many tokens, and their target. Tokens count by the square of `scales` `[tokens, 1]`, or all the same.
    pub fn add(&mut self, engine: &E, x: &E::Tensor, target: Option<&E::Tensor>, scales: Option<&E::Tensor>, tokens: usize) -> Result<()> {
        let ones = engine.upload(&vec![1.0; tokens], 1)?;
        if self.0.is_none() {
            let site = Side::new(engine, x, &ones, tokens)?;
            let target = match target {
                None => None,
                Some(y) => {
                    let cross = Cross::new(engine, engine.columns(x), engine.columns(y));
                    Some((Side::new(engine, y, &ones, tokens)?, cross))
                }
            };
            let (weight, gram) = (Cross::new(engine, 1, 1), Gram::new(engine, engine.columns(x)));
            self.0 = Some(Sums { weight, site, gram, target });
        }
        let Some(sums) = &mut self.0 else { return Ok(()) };
        let column = scales.unwrap_or(&ones);
        sums.weight.add(engine, column, column, tokens)?;
        let x = sums.site.add(engine, x, column, scales, tokens)?;
        sums.gram.add(engine, &x, tokens)?;
        if let (Some((side, cross)), Some(y)) = (&mut sums.target, target) {
            let y = side.add(engine, y, column, scales, tokens)?;
            cross.add(engine, &x, &y, tokens)?;
        }
        Ok(())
    }

    /// Means and covariances over all tokens. `what` names the site in errors.
    ///
    /// # Panics
    /// If nothing was added.
    pub fn finish(self, engine: &E, what: &str) -> Result<SiteMoments> {
        let sums = self.0.expect("a pass has windows");
        let weight = sums.weight.finish(engine)?[(0, 0)];
        let (mean, away) = sums.site.finish(engine, weight)?;
        let mut covariance = sums.gram.finish(engine)?;
        covariance.each_column(|j, column| {
            let own = away[(j, 0)];
            column.iter_mut().enumerate().for_each(|(i, value)| *value = *value / weight - away[(i, 0)] * own);
        });
        covariance.check_finite(what)?;
        let target = match sums.target {
            None => None,
            Some((side, cross)) => {
                let (target_mean, target_away) = side.finish(engine, weight)?;
                let mut cross = cross.finish(engine)?;
                cross.par_col_iter_mut().for_each(|column| column.iter_mut().for_each(|value| *value /= weight));
                matmul(&mut cross, Accum::Add, &target_away, away.transpose(), -1.0, parallel());
                Some((target_mean, cross))
            }
        };
        Ok(SiteMoments { weight, mean, covariance, target })
    }
}

impl<E: Engine> Side<E> {
    /// Seen from the mean of the first batch.
    fn new(engine: &E, x: &E::Tensor, ones: &E::Tensor, tokens: usize) -> Result<Self> {
        let columns = engine.columns(x);
        let mut sum = engine.zeros(1, columns)?;
        engine.add_cross(&mut sum, ones, 0..1, x, false)?;
        let shift: Vec<f32> = engine.download(&sum)?.iter().map(|sum| sum / tokens as f32).collect();
        Ok(Self { on_device: engine.upload(&shift, columns)?, shift, away: Cross::new(engine, 1, columns) })
    }

    /// The activations as seen from there, scaled; `column` is the scales, or ones.
    fn add(&mut self, engine: &E, x: &E::Tensor, column: &E::Tensor, scales: Option<&E::Tensor>, tokens: usize) -> Result<E::Tensor> {
        let seen = engine.shifted(x, &self.on_device, scales)?;
        self.away.add(engine, column, &seen, tokens)?;
        Ok(seen)
    }

    /// The mean, and how far it is from the point, `[columns, 1]`.
    fn finish(self, engine: &E, weight: f64) -> Result<(Vec<f64>, Mat<f64>)> {
        let sum = self.away.finish(engine)?;
        let away = Mat::from_fn(self.shift.len(), 1, |i, _| sum[(i, 0)] / weight);
        let mean = self.shift.iter().enumerate().map(|(i, &shift)| f64::from(shift) + away[(i, 0)]).collect();
        Ok((mean, away))
    }
}

/// `rows C` for `rows [outputs, channels]`.
pub fn times_symmetric(rows: MatRef<'_, f64>, matrix: &Symmetric, columns: &[usize]) -> Mat<f64> {
    let mut result = Mat::zeros(rows.nrows(), columns.len());
    let step = super::symmetric::PANEL;
    for (index, part) in columns.chunks(step).enumerate() {
        let out = result.subcols_mut(index * step, part.len());
        matmul(out, Accum::Replace, rows, matrix.columns(part), 1.0, parallel());
    }
    result
}
