//! Elimination in symmetric positive definite systems on the host, in f32 or f64: the one operation of which solves, inverses and the removal
//! of channels are made. The pivots' own square is factored in f64.

use super::elimination::Elimination;
use super::keep;
use super::products::{Number, add_product, cast, parallel, select_columns, transposed};
use super::symmetric::{Symmetric, panels};
use crate::error::{Error, Result};
use crate::search::places;
use faer::linalg::solvers::Llt;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{Mat, MatRef, Par, Side};
use rayon::prelude::*;
use std::ops::Range;

/// Variance, relative to the mean of all, that a channel counts as having at least: the ridge of a constant one is to be more than nothing.
const LEAST_VARIANCE: f64 = 1e-6;

/// The ridge of a covariance: for each channel `lambda C_ii`, relative to its own variance. So a channel's scale, which is a convention
/// between the matrix that writes it and the one that reads it, changes no result, and a few channels of massive activation do not drown the
/// others. Where all channels are constant it is 1: any weight is as good as another there.
#[must_use]
pub fn ridge(covariance: &Symmetric, lambda: f64) -> Vec<f64> {
    let mean = covariance.mean_of_diagonal();
    let of_channel = |i| if mean > 0.0 { lambda * covariance.get(i, i).max(LEAST_VARIANCE * mean) } else { 1.0 };
    (0..covariance.size()).map(of_channel).collect()
}

/// The Cholesky factor of the pivots' own square.
pub fn factor(own: MatRef<'_, f64>, what: &str) -> Result<Llt<f64>> {
    own.llt(Side::Lower).map_err(|_| {
        Error::NotFinite(format!(
            "{what}: the activations' covariance is not positive definite; they hold numbers too large to be summed in f32"
        ))
    })
}

/// `L^-1` of a factor `L`.
pub fn inverse_of_factor(factor: MatRef<'_, f64>) -> Mat<f64> {
    let mut inverse = Mat::identity(factor.nrows(), factor.nrows());
    solve_lower_triangular_in_place(factor, inverse.as_mut(), parallel());
    inverse
}

/// An inverse covariance from which so much was removed that rounding is what is left of it.
pub fn lost_definiteness(what: &str) -> Error {
    Error::NotFinite(format!("{what}: the inverse covariance lost its definiteness"))
}

/// A symmetric positive definite matrix of channels with rows `[outputs, channels]` that take part in what is done to it.
pub struct System<T = f64> {
    /// The matrix, or its inverse.
    pub matrix: Symmetric<T>,
    /// The rows.
    pub rows: Mat<T>,
}

/// What an elimination leaves of its pivots: with `A_pp = L L^T`, `x = L^-1 A_p:` and `y = L^-1 rows_p^T`.
struct Pivots<T> {
    /// `L`, and as it is used.
    factor: Mat<f64>,
    rounded: Mat<T>,
    x: Mat<T>,
    y: Mat<T>,
}

impl System {
    /// A covariance with its ridge; no rows yet.
    #[must_use]
    pub fn ridged(covariance: Symmetric, lambda: f64) -> Self {
        let ridge = ridge(&covariance, lambda);
        let mut matrix = covariance;
        matrix.add_to_diagonal(&ridge);
        Self { rows: Mat::zeros(0, matrix.size()), matrix }
    }

    /// In f32.
    #[must_use]
    pub fn rounded(&self) -> System<f32> {
        System { matrix: self.matrix.rounded(), rows: cast(self.rows.as_ref()) }
    }
}

impl<T: Number> System<T> {
    /// `matrix -= A_:p A_pp^-1 A_p:` and `rows -= rows_p A_pp^-1 A_p:`. The pivots' own rows and columns are of no meaning afterwards.
    fn eliminate(&mut self, pivots: &[usize], what: &str) -> Result<Pivots<T>> {
        crate::interrupt::check()?;
        let mut x = transposed(self.matrix.columns(pivots).as_ref());
        let own = Mat::from_fn(pivots.len(), pivots.len(), |i, j| x[(i, pivots[j])].into());
        let factor = factor(own.as_ref(), what)?.L().to_owned();
        let rounded = cast(factor.as_ref());
        solve_lower_triangular_in_place(rounded.as_ref(), x.as_mut(), parallel());
        let mut y = transposed(select_columns(self.rows.as_ref(), pivots).as_ref());
        solve_lower_triangular_in_place(rounded.as_ref(), y.as_mut(), parallel());
        self.matrix.subtract_square(0, x.as_ref());
        add_product(self.rows.as_mut(), y.transpose(), x.as_ref(), T::of(-1.0));
        Ok(Pivots { factor, rounded, x, y })
    }

    /// What the removal of a run of channels alone costs.
    fn cost(&self, channels: Range<usize>, what: &str) -> Result<f64> {
        let Range { start, end } = channels;
        let own = Mat::<f64>::from_fn(end - start, end - start, |i, j| self.matrix.get(start + i, start + j).into());
        let factor = own.llt(Side::Lower).map_err(|_| lost_definiteness(what))?;
        let square: f64 = if end - start == 1 {
            self.rows.col(start).squared_norm_l2().into() / own[(0, 0)]
        } else {
            let mut y = self.rows.subcols(start, end - start).to_owned();
            solve_lower_triangular_in_place(cast::<_, T>(factor.L()).as_ref(), y.transpose_mut(), Par::Seq);
            y.squared_norm_l2().into()
        };
        if square.is_finite() { Ok(square) } else { Err(lost_definiteness(what)) }
    }
}

impl<T: Number> Elimination for System<T> {
    /// A Gauss-Jordan sweep by panels, in place: as stable for positive definite matrices as a Cholesky factorization is.
    fn invert(&mut self, what: &str) -> Result<()> {
        for pivots in panels(self.matrix.size()) {
            let Pivots { factor, rounded, mut x, mut y } = self.eliminate(&pivots.clone().collect::<Vec<_>>(), what)?;
            // Swept rows hold A_pp^-1 A_p:, and -A_pp^-1 on the pivots themselves.
            x.subcols_mut(pivots.start, pivots.len()).copy_from(-cast::<_, T>(inverse_of_factor(factor.as_ref()).as_ref()));
            solve_upper_triangular_in_place(rounded.transpose(), x.as_mut(), parallel());
            solve_upper_triangular_in_place(rounded.transpose(), y.as_mut(), parallel());
            self.matrix.replace(pivots.clone(), x.as_ref());
            self.rows.subcols_mut(pivots.start, pivots.len()).copy_from(y.transpose());
        }
        self.matrix.negate();
        Ok(())
    }

    /// A Cholesky factorization by panels, in place: with `A = L L^T`, `rows L^-T` on the way down and `L^-1` on the way back.
    fn solve(&mut self, what: &str) -> Result<()> {
        let size = self.matrix.size();
        for pivots in panels(size) {
            crate::interrupt::check()?;
            let mut x = transposed(self.matrix.columns(&pivots.clone().collect::<Vec<_>>()).as_ref());
            let own = cast(x.subcols(pivots.start, pivots.len()));
            let factor = cast::<_, T>(factor(own.as_ref(), what)?.L());
            x.subcols_mut(pivots.start, pivots.len()).copy_from(&factor);
            let mut behind = x.subcols_mut(pivots.end, size - pivots.end);
            solve_lower_triangular_in_place(factor.as_ref(), behind.rb_mut(), parallel());
            let (mut own, rest) = self.rows.subcols_mut(pivots.start, size - pivots.start).split_at_col_mut(pivots.len());
            solve_lower_triangular_in_place(factor.as_ref(), own.rb_mut().transpose_mut(), parallel());
            add_product(rest, own.rb(), behind.rb(), T::of(-1.0));
            self.matrix.subtract_square(pivots.end, behind.rb());
            self.matrix.replace(pivots, x.as_ref());
        }
        for pivots in panels(size).rev() {
            crate::interrupt::check()?;
            let x = self.matrix.columns(&pivots.clone().collect::<Vec<_>>());
            let (mut own, rest) = self.rows.subcols_mut(pivots.start, size - pivots.start).split_at_col_mut(pivots.len());
            add_product(own.rb_mut(), rest.rb(), x.subrows(pivots.end, size - pivots.end), T::of(-1.0));
            // Of a symmetric block's two halves, the upper one holds the factor.
            solve_upper_triangular_in_place(x.subrows(pivots.start, pivots.len()), own.transpose_mut(), parallel());
        }
        Ok(())
    }

    fn set_rows(&mut self, rows: Mat<f64>) -> Result<()> {
        self.rows = cast(rows.as_ref());
        Ok(())
    }

    fn channels(&self) -> usize {
        self.matrix.size()
    }

    fn costs(&self, per_unit: usize, what: &str) -> Result<Vec<f64>> {
        let units = self.matrix.size() / per_unit;
        (0..units).into_par_iter().map(|unit| self.cost(unit * per_unit..(unit + 1) * per_unit, what)).collect()
    }

    fn remove(&mut self, channels: &[usize], what: &str) -> Result<f64> {
        let lost = self.eliminate(channels, what)?.y.squared_norm_l2().into();
        let stays = places(&keep(channels, self.matrix.size()));
        self.matrix.keep(&stays);
        // In place: a column moves to the front, over one that has moved already or goes.
        for (to, &from) in stays.iter().enumerate().filter(|&(to, &from)| to < from) {
            let (left, right) = self.rows.as_mut().split_at_col_mut(from);
            left.col_mut(to).copy_from(right.col(0));
        }
        self.rows.truncate(self.rows.nrows(), stays.len());
        Ok(lost)
    }

    fn take_rows(&mut self) -> Result<Mat<f64>> {
        Ok(cast(std::mem::replace(&mut self.rows, Mat::new()).as_ref()))
    }
}
