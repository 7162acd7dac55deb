//! Means and covariances of a site's activations, and their covariances with a target.

use super::gram::{Cross, Gram};
use super::products::add_product;
use super::symmetric::Symmetric;
use crate::engine::Engine;
use crate::error::Result;
use crate::statistics::TokenWeights;
use faer::Mat;
use rayon::prelude::*;

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

/// Mean and covariance of a site's activations, and their covariance with a target.
pub struct SiteMoments {
    /// Tokens seen.
    pub tokens: u64,
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
    tokens: u64,
    weight: Cross<E>,
    site: Side<E>,
    gram: Gram<E>,
    target: Option<(Side<E>, Cross<E>)>,
}

impl<E: Engine> Sums<E> {
    /// Nothing, relative to what the first tokens say.
    fn new(engine: &E, x: &E::Tensor, target: Option<&E::Tensor>, ones: &E::Tensor, tokens: usize) -> Result<Self> {
        let side = |x: &E::Tensor| Side::new(engine, x, ones, tokens);
        let of_target = |y: &E::Tensor| Ok((side(y)?, Cross::new(engine, engine.columns(x), engine.columns(y))));
        let target = target.map(of_target).transpose()?;
        let (weight, gram) = (Cross::new(engine, 1, 1), Gram::new(engine, engine.columns(x)));
        Ok(Self { tokens: 0, weight, site: side(x)?, gram, target })
    }
}

impl<E: Engine> SiteSums<E> {
    /// Nothing gathered yet.
    pub fn new() -> Self {
        Self(None)
    }

    /// Adds the activations `x` of so many tokens, and their target. Tokens count by the square of `scales` `[tokens, 1]`, or all the same.
    pub fn add(&mut self, engine: &E, x: &E::Tensor, target: Option<&E::Tensor>, scales: Option<&E::Tensor>, tokens: usize) -> Result<()> {
        let ones = engine.upload(&vec![1.0; tokens], 1)?;
        let sums = match &mut self.0 {
            Some(sums) => sums,
            none => none.insert(Sums::new(engine, x, target, &ones, tokens)?),
        };
        sums.tokens += tokens as u64;
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
                add_product(cross.as_mut(), target_away.as_ref(), away.transpose(), -1.0);
                Some((target_mean, cross))
            }
        };
        Ok(SiteMoments { tokens: sums.tokens, weight, mean, covariance, target })
    }
}

impl<E: Engine> Side<E> {
    /// Seen from the mean of the first batch.
    fn new(engine: &E, x: &E::Tensor, ones: &E::Tensor, tokens: usize) -> Result<Self> {
        let columns = engine.columns(x);
        let sum = engine.cross(ones, 0..1, x)?;
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
