//! Eliminations on the device, in f32: the pivots' own square is factored on the host in f64, and comes back as the inverse of its factor;
//! everything else is sums of products of the engine. A ridge of a hundredth of each variance keeps f32 exact enough:
//! the statistics themselves are sums in f32.

mod panels;

pub use panels::{panel_lines, transposed, upload_columns};

use super::elimination::Elimination;
use super::linear_algebra::{factor, inverse_of_factor, lost_definiteness};
use super::symmetric::Symmetric;
use crate::engine::Engine;
use crate::error::Result;
use faer::{Mat, MatRef};
use panels::Panels;
use std::ops::Range;

/// A matrix with the rows that take part in what is done to it. What is removed is closed up, so that every step works on what is left.
pub struct OnDevice<'a, E: Engine> {
    engine: &'a E,
    panels: Panels<'a, E>,
}

/// What a step adds: `matrix += left^T right`, and `left^T rows` to the rows. With pivots `A_pp = L L^T`, and a sign for each line that is
/// to change:
struct Step<T> {
    /// `L^-1 A_p:` with the signs, `[pivots, channels]`.
    left: T,
    /// `L^-1 A_p:` `[pivots, channels]`.
    right: T,
    /// `L^-1 rows_p` `[pivots, outputs]`, if there are rows.
    rows: Option<T>,
}

impl<'a, E: Engine> OnDevice<'a, E> {
    /// What so many channels and outputs take: the matrix, the rows, and a step of either.
    #[must_use]
    pub fn bytes(size: usize, outputs: usize, channels_per_unit: usize) -> u64 {
        4 * (size + size.div_ceil(4) + 4 * panel_lines(channels_per_unit)) as u64 * (size + outputs) as u64
    }

    /// Brings a matrix and rows `[outputs, channels]` to the device; there may be no rows yet. A unit owns a run of channels.
    pub fn new(engine: &'a E, matrix: &Symmetric, rows: MatRef<'_, f64>, channels_per_unit: usize) -> Result<Self> {
        let mut panels = Panels::new(engine, matrix, channels_per_unit)?;
        if rows.nrows() > 0 {
            panels.set_rows(rows)?;
        }
        Ok(Self { engine, panels })
    }

    /// `coefficients lines`.
    fn combine(&self, coefficients: &Mat<f64>, lines: &E::Tensor) -> Result<E::Tensor> {
        self.engine.cross(&upload_columns(self.engine, coefficients.as_ref())?, 0..coefficients.nrows(), lines)
    }

    /// A step from the pivots' lines, the inverse of their factor, and what that made of their rows.
    fn step(&self, inverse: &Mat<f64>, lines: &E::Tensor, rows: Option<E::Tensor>, signs: &[f32]) -> Result<Step<E::Tensor>> {
        let right = self.combine(inverse, lines)?;
        let mut left = self.engine.copy(&right)?;
        self.engine.scale_columns(&mut left, &self.engine.upload(signs, signs.len())?)?;
        Ok(Step { left, right, rows })
    }

    fn take_step(&mut self, index: usize, range: Range<usize>, step: &Step<E::Tensor>) -> Result<()> {
        let panel = self.panels.get_mut(index);
        self.engine.add_cross(&mut panel.matrix, &step.left, range.clone(), &step.right, false)?;
        match (&mut panel.rows, &step.rows) {
            (Some(own), Some(rows)) => self.engine.add_cross(own, &step.left, range, rows, false),
            _ => Ok(()),
        }
    }

    /// The squared norm of each line.
    fn squares(&self, lines: &E::Tensor, what: &str) -> Result<Vec<f64>> {
        let inverses = self.engine.download(&self.engine.inverse_norms(lines)?)?;
        if inverses.iter().all(|&inverse| inverse > 0.0) {
            return Ok(inverses.iter().map(|&inverse| f64::from(inverse).powi(-2)).collect());
        }
        // A line of zeros, or one that is not finite or whose square is not: seldom, and told apart here.
        let lines = self.engine.download(lines)?;
        let squares = lines.chunks_exact(lines.len() / inverses.len()).map(|line| line.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>());
        squares.map(|square| if square.is_finite() { Ok(square) } else { Err(lost_definiteness(what)) }).collect()
    }

    /// What the units of a panel cost: `|L^-1 rows_q|^2` with `P_qq = L L^T`.
    fn panel_costs(&self, index: usize, range: Range<usize>, per_unit: usize, what: &str) -> Result<Vec<f64>> {
        let size = range.len();
        let own = self.panels.own_square(&range.collect::<Vec<_>>())?;
        let rows = self.panels.get(index).rows.as_ref().expect("costs are those of rows");
        if per_unit == 1 {
            let squares = self.squares(rows, what)?;
            let cost = |i: usize| if own[(i, i)] > 0.0 { Ok(squares[i] / own[(i, i)]) } else { Err(lost_definiteness(what)) };
            return (0..size).map(cost).collect();
        }
        let mut inverses = Mat::zeros(size, size);
        for first in (0..size).step_by(per_unit) {
            let factor = factor(own.submatrix(first, first, per_unit, per_unit), what).map_err(|_| lost_definiteness(what))?;
            inverses.submatrix_mut(first, first, per_unit, per_unit).copy_from(inverse_of_factor(factor.L()));
        }
        let squares = self.squares(&self.combine(&inverses, rows)?, what)?;
        Ok(squares.chunks_exact(per_unit).map(|unit| unit.iter().sum()).collect())
    }
}

impl<E: Engine> Elimination for OnDevice<'_, E> {
    /// Gauss-Jordan in place: a panel's lines become `A_pp^-1 A_p:`, with `A_pp^-1` on the pivots, and every other line loses its share of them.
    fn invert(&mut self, what: &str) -> Result<()> {
        let (engine, size) = (self.engine, self.channels());
        let ranges = self.panels.ranges();
        for (index, range) in ranges.iter().enumerate() {
            crate::interrupt::check()?;
            let own = self.panels.own_square(&range.clone().collect::<Vec<_>>())?;
            let inverse = inverse_of_factor(factor(own.as_ref(), what)?.L());
            let mut others = vec![1.0; size];
            others[range.clone()].fill(0.0);
            let others = engine.upload(&others, size)?;
            // Ones for the pivots' own square become `L^-1` in the step, and its inverse in the end.
            let mut ones = vec![0.0; range.len() * size];
            range.clone().enumerate().for_each(|(line, channel)| ones[line * size + channel] = 1.0);
            let panel = self.panels.get_mut(index);
            engine.scale_columns(&mut panel.matrix, &others)?;
            engine.add(&mut panel.matrix, &engine.upload(&ones, size)?)?;
            // Lines of channels that are through have the other sign across the diagonal.
            let signs: Vec<f32> = (0..size).map(|channel| if channel < range.start { 1.0 } else { -1.0 }).collect();
            let panel = self.panels.get(index);
            let rows = panel.rows.as_ref().map(|rows| self.combine(&inverse, rows)).transpose()?;
            let step = self.step(&inverse, &panel.matrix, rows, &signs)?;
            for (other, range) in ranges.iter().enumerate().filter(|&(other, _)| other != index) {
                engine.scale_columns(&mut self.panels.get_mut(other).matrix, &others)?;
                self.take_step(other, range.clone(), &step)?;
            }
            let transposed = inverse.transpose().to_owned();
            let matrix = self.combine(&transposed, &step.right)?;
            let rows = step.rows.as_ref().map(|rows| self.combine(&transposed, rows)).transpose()?;
            let panel = self.panels.get_mut(index);
            (panel.matrix, panel.rows) = (matrix, rows);
        }
        Ok(())
    }

    fn set_rows(&mut self, rows: Mat<f64>) -> Result<()> {
        self.panels.set_rows(rows.as_ref())
    }

    fn channels(&self) -> usize {
        self.panels.channels()
    }

    fn costs(&self, channels_per_unit: usize, what: &str) -> Result<Vec<f64>> {
        let mut costs = Vec::new();
        for (index, range) in self.panels.ranges().into_iter().enumerate() {
            costs.extend(self.panel_costs(index, range, channels_per_unit, what)?);
        }
        Ok(costs)
    }

    fn remove(&mut self, channels: &[usize], what: &str) -> Result<f64> {
        crate::interrupt::check()?;
        let mut goes = vec![false; self.channels()];
        channels.iter().for_each(|&channel| goes[channel] = true);
        let (pivots, left): (Vec<usize>, Vec<usize>) = (0..goes.len()).partition(|&channel| goes[channel]);
        let inverse = inverse_of_factor(factor(self.panels.own_square(&pivots)?.as_ref(), what)?.L());
        let rows = self.combine(&inverse, &self.panels.pick_rows(&pivots)?)?;
        let lost = self.squares(&rows, what)?.iter().sum();
        if left.is_empty() {
            self.panels.clear();
            return Ok(lost);
        }
        let lines = self.panels.pick(&pivots, &left)?;
        let step = self.step(&inverse, &lines, Some(rows), &vec![-1.0; left.len()])?;
        self.panels.close_up(&left)?;
        for (index, range) in self.panels.ranges().into_iter().enumerate() {
            self.take_step(index, range, &step)?;
        }
        Ok(lost)
    }

    fn take_rows(&mut self) -> Result<Mat<f64>> {
        self.panels.rows()
    }
}
