//! Solves, inverses and the greedy removal of units, in f64 on the host.

use crate::error::{Error, Result};
use faer::linalg::matmul::matmul;
use faer::linalg::solvers::DenseSolveCore;
use faer::prelude::Solve;
use faer::{Accum, Mat, MatRef, Par, Side};
use rayon::prelude::*;

/// Neurons are removed in blocks of this share of all; smaller blocks gain nothing.
const BLOCKS: usize = 16;

/// All threads.
pub fn parallel() -> Par {
    Par::rayon(0)
}

/// A covariance with a ridge, `C + lambda mean(diag C) I`, and the ridge. Where all channels are constant the ridge is 1: any
/// weight is as good as another there.
#[must_use]
pub fn ridged(covariance: MatRef<'_, f64>, lambda: f64) -> (Mat<f64>, f64) {
    let size = covariance.nrows();
    let mean = (0..size).map(|i| covariance[(i, i)]).sum::<f64>() / size.max(1) as f64;
    let ridge = if mean > 0.0 { lambda * mean } else { 1.0 };
    let mut sum = covariance.to_owned();
    (0..size).for_each(|i| sum[(i, i)] += ridge);
    (sum, ridge)
}

fn factor(matrix: MatRef<'_, f64>, what: &str) -> Result<faer::linalg::solvers::Llt<f64>> {
    matrix.llt(Side::Lower).map_err(|_| {
        Error::NotFinite(format!(
            "{what}: the activations' covariance is not positive definite; they hold numbers too large to be summed in f32"
        ))
    })
}

/// The inverse of a symmetric positive definite matrix, of which the lower triangle is read.
pub fn inverse(matrix: MatRef<'_, f64>, what: &str) -> Result<Mat<f64>> {
    Ok(factor(matrix, what)?.inverse())
}

/// `matrix^-1 right` for a symmetric positive definite matrix.
pub fn solve(matrix: MatRef<'_, f64>, right: MatRef<'_, f64>, what: &str) -> Result<Mat<f64>> {
    Ok(factor(matrix, what)?.solve(right))
}

/// `a b`.
pub fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut c = Mat::zeros(a.nrows(), b.ncols());
    matmul(&mut c, Accum::Replace, a, b, 1.0, parallel());
    c
}

/// Some rows and columns of a matrix.
pub fn select(matrix: MatRef<'_, f64>, rows: &[usize], columns: &[usize]) -> Mat<f64> {
    let mut chosen = Mat::zeros(rows.len(), columns.len());
    chosen.par_col_iter_mut().zip(columns.par_iter()).for_each(|(out, &column)| {
        let from = matrix.col(column);
        out.iter_mut().zip(rows).for_each(|(out, &row)| *out = from[row]);
    });
    chosen
}

/// The order in which the units of a site are removed, and what is lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Removal {
    /// Units, the first removed first.
    pub order: Vec<usize>,
    /// Squared error of the site's output per token after so many removals, when the rest makes up for them; one more than units.
    pub curve: Vec<f64>,
}

/// What remains of a site while units are removed.
struct Remaining {
    /// Inverse covariance of the living channels, ridged.
    precision: Mat<f64>,
    /// `[outputs, living channels]`.
    weight: Mat<f64>,
    /// Living units.
    units: Vec<usize>,
    channels_per_unit: usize,
}

/// Backward elimination: the cheapest units go first, and after each removal the remaining weights take over what they can of it
/// (optimal brain surgeon with updates). `precision` is `(C + ridge)^-1`; a unit owns a run of channels. Units of one channel go in
/// blocks, the others one by one.
pub fn remove_greedily(precision: Mat<f64>, weight: Mat<f64>, channels_per_unit: usize, what: &str) -> Result<Removal> {
    let count = weight.ncols() / channels_per_unit;
    let block = if channels_per_unit == 1 { (count / BLOCKS).max(1) } else { 1 };
    let mut remaining = Remaining { precision, weight, units: (0..count).collect(), channels_per_unit };
    let (mut order, mut curve, mut error) = (Vec::with_capacity(count), vec![0.0], 0.0);
    while !remaining.units.is_empty() {
        crate::interrupt::check()?;
        let costs = remaining.costs(what)?;
        let mut places: Vec<usize> = (0..costs.len()).collect();
        places.sort_by(|&a, &b| costs[a].total_cmp(&costs[b]).then(a.cmp(&b)));
        places.truncate(block);
        let lost = remaining.remove(&places, &mut order, what)?;
        // A block's loss is more than the sum of its units'; it is spread over them in proportion.
        let total: f64 = places.iter().map(|&place| costs[place]).sum();
        let mut share = 0.0;
        for (index, &place) in places.iter().enumerate() {
            share += if total > 0.0 { costs[place] / total } else { 1.0 / places.len() as f64 };
            curve.push(error + lost * if index + 1 == places.len() { 1.0 } else { share });
        }
        error += lost;
    }
    Ok(Removal { order, curve })
}

impl Remaining {
    fn channels(&self, places: &[usize]) -> Vec<usize> {
        places.iter().flat_map(|&place| place * self.channels_per_unit..(place + 1) * self.channels_per_unit).collect()
    }

    /// What the removal of each living unit alone costs: `tr(W_q P_qq^-1 W_q^T)`.
    fn costs(&self, what: &str) -> Result<Vec<f64>> {
        if self.channels_per_unit == 1 {
            let cost = |j: usize| self.weight.col(j).squared_norm_l2() / self.precision[(j, j)];
            return Ok((0..self.units.len()).into_par_iter().map(cost).collect());
        }
        (0..self.units.len()).map(|place| self.cost(&self.channels(&[place]), what)).collect()
    }

    fn cost(&self, channels: &[usize], what: &str) -> Result<f64> {
        let rows: Vec<usize> = (0..self.weight.nrows()).collect();
        let removed = select(self.weight.as_ref(), &rows, channels);
        let own = select(self.precision.as_ref(), channels, channels);
        // tr(W_q P^-1 W_q^T) = tr(P^-1 W_q^T W_q).
        let gram = product(removed.transpose(), removed.as_ref());
        let solved = solve(own.as_ref(), gram.as_ref(), what)?;
        Ok((0..channels.len()).map(|i| solved[(i, i)]).sum())
    }

    /// Removes living units; returns what that costs.
    fn remove(&mut self, places: &[usize], order: &mut Vec<usize>, what: &str) -> Result<f64> {
        let gone = self.channels(places);
        let lost = self.cost(&gone, what)?;
        order.extend(places.iter().map(|&place| self.units[place]));
        let mut lives = vec![true; self.units.len()];
        places.iter().for_each(|&place| lives[place] = false);
        let living: Vec<usize> = (0..lives.len()).filter(|&place| lives[place]).collect();
        let stays = self.channels(&living);
        let rows: Vec<usize> = (0..self.weight.nrows()).collect();
        let own = select(self.precision.as_ref(), &gone, &gone);
        let across = select(self.precision.as_ref(), &gone, &stays);
        let transfer = solve(own.as_ref(), across.as_ref(), what)?;
        let mut weight = select(self.weight.as_ref(), &rows, &stays);
        let removed = select(self.weight.as_ref(), &rows, &gone);
        matmul(&mut weight, Accum::Add, &removed, &transfer, -1.0, parallel());
        let mut precision = select(self.precision.as_ref(), &stays, &stays);
        matmul(&mut precision, Accum::Add, across.transpose(), &transfer, -1.0, parallel());
        self.units = living.iter().map(|&place| self.units[place]).collect();
        (self.weight, self.precision) = (weight, precision);
        Ok(lost)
    }
}

/// The weights `[outputs, kept]` that best reproduce a target from the kept channels, with a ridge toward `anchor`:
/// `((C_KK + R)^-1 (C_Ky + R anchor^T))^T`.
///
/// `covariance` is `[kept, kept]`, `cross` `[kept, outputs]`, `anchor` `[outputs, kept]`.
pub fn refit(covariance: MatRef<'_, f64>, cross: MatRef<'_, f64>, anchor: MatRef<'_, f64>, lambda: f64, what: &str) -> Result<Mat<f64>> {
    let (ridged, ridge) = ridged(covariance, lambda);
    let mut right = cross.to_owned();
    for (column, row) in right.col_iter_mut().zip(anchor.row_iter()) {
        column.iter_mut().zip(row.iter()).for_each(|(value, anchor)| *value += ridge * anchor);
    }
    Ok(solve(ridged.as_ref(), right.as_ref(), what)?.transpose().to_owned())
}
