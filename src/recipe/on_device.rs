//! Eliminations on the device, in f32: the pivots' own square is factored on the host in f64, and comes back as the inverse of its factor;
//! everything else is sums of products of the engine. A ridge of a hundredth of the mean variance keeps f32 exact enough:
//! the statistics themselves are sums in f32.

use super::elimination::Elimination;
use super::linear_algebra::{factor, inverse_of_factor, lost_definiteness};
use super::symmetric::{PANEL, Symmetric};
use crate::engine::Engine;
use crate::error::Result;
use faer::{Mat, MatRef};
use rayon::prelude::*;
use std::ops::Range;

/// The whole matrix, both halves, as panels of rows on the device, and beside each panel the rows that take part, turned: a line a channel.
/// Removed channels stay where they are and are not looked at again.
pub struct OnDevice<'a, E: Engine> {
    engine: &'a E,
    size: usize,
    /// Lines of a panel: whole units.
    panel: usize,
    /// Panels `[panel, size]`.
    matrix: Vec<E::Tensor>,
    /// Panels `[panel, outputs]`; none if there are no rows.
    rows: Vec<E::Tensor>,
    outputs: usize,
    /// Channels that are left.
    left: Vec<usize>,
}

/// What a step adds: `matrix += left^T right`, and `left^T rows` to the rows. With pivots `A_pp = L L^T`, and a sign for each line that is
/// to change:
struct Step<T> {
    /// `L^-1 A_p:` with the signs, `[pivots, size]`.
    left: T,
    /// `L^-1 A_p:` `[pivots, size]`.
    right: T,
    /// `L^-1 rows_p` `[pivots, outputs]`, if there are rows.
    rows: Option<T>,
}

/// Lines of a panel for units of so many channels.
pub fn panel_lines(channels_per_unit: usize) -> usize {
    channels_per_unit * (PANEL / channels_per_unit).max(1)
}

impl<'a, E: Engine> OnDevice<'a, E> {
    /// What so many channels and outputs take: the matrix, the rows, and a step of either.
    #[must_use]
    pub fn bytes(size: usize, outputs: usize, channels_per_unit: usize) -> u64 {
        4 * (size + size.div_ceil(4) + 4 * panel_lines(channels_per_unit)) as u64 * (size + outputs) as u64
    }

    /// Brings a matrix and rows `[outputs, size]` to the device; there may be no rows yet. A unit owns a run of channels.
    pub fn new(engine: &'a E, matrix: &Symmetric, rows: MatRef<'_, f64>, channels_per_unit: usize) -> Result<Self> {
        let (size, panel) = (matrix.size(), panel_lines(channels_per_unit));
        let mut system = Self { engine, size, panel, matrix: Vec::new(), rows: Vec::new(), outputs: 0, left: (0..size).collect() };
        let lines = |range: Range<usize>| upload_columns(engine, matrix.columns(&range.collect::<Vec<_>>()).as_ref());
        system.matrix = system.panels().map(lines).collect::<Result<_>>()?;
        if rows.nrows() > 0 {
            system.place_rows(rows)?;
        }
        Ok(system)
    }

    fn place_rows(&mut self, rows: MatRef<'_, f64>) -> Result<()> {
        self.outputs = rows.nrows();
        self.rows =
            self.panels().map(|range| upload_columns(self.engine, rows.subcols(range.start, range.len()))).collect::<Result<_>>()?;
        Ok(())
    }

    /// Channels of each panel.
    fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<E> {
        let (size, panel) = (self.size, self.panel);
        (0..size).step_by(panel).map(move |first| first..(first + panel).min(size))
    }

    /// `coefficients lines`.
    fn combine(&self, coefficients: &Mat<f64>, lines: &E::Tensor) -> Result<E::Tensor> {
        self.engine.cross(&upload_columns(self.engine, coefficients.as_ref())?, 0..coefficients.nrows(), lines)
    }

    /// Lines of the matrix and of the rows at some channels: picked out by products with ones, which are exact.
    fn lines(&self, channels: &[usize]) -> Result<[E::Tensor; 2]> {
        let engine = self.engine;
        let mut lines = [engine.zeros(channels.len(), self.size)?, engine.zeros(channels.len(), self.outputs)?];
        for (index, range) in self.panels().enumerate() {
            let mut picks = vec![0.0f32; range.len() * channels.len()];
            for (place, channel) in channels.iter().enumerate().filter(|(_, channel)| range.contains(channel)) {
                picks[(channel - range.start) * channels.len() + place] = 1.0;
            }
            if picks.iter().any(|&pick| pick != 0.0) {
                let picks = engine.upload(&picks, channels.len())?;
                for (lines, panel) in lines.iter_mut().zip([&self.matrix[index], &self.rows[index]]) {
                    engine.add_cross(lines, &picks, 0..channels.len(), panel, false)?;
                }
            }
        }
        Ok(lines)
    }

    /// The square of a panel's own channels, on the host.
    fn own_square(&self, index: usize, range: Range<usize>) -> Result<Mat<f64>> {
        let lines = range.len();
        let values = self.engine.download(&turned(self.engine, &self.matrix[index], lines, range)?)?;
        Ok(Mat::from_fn(lines, lines, |i, j| f64::from(values[i * lines + j])))
    }

    /// A step from the pivots' lines and rows, and the inverse of their factor.
    fn step(&self, inverse: &Mat<f64>, lines: &E::Tensor, rows: Option<&E::Tensor>, signs: &[f32]) -> Result<Step<E::Tensor>> {
        let right = self.combine(inverse, lines)?;
        let mut left = self.engine.copy(&right)?;
        self.engine.scale_columns(&mut left, &self.engine.upload(signs, self.size)?)?;
        let rows = rows.map(|rows| self.combine(inverse, rows)).transpose()?;
        Ok(Step { left, right, rows })
    }

    fn take_step(&mut self, index: usize, range: Range<usize>, step: &Step<E::Tensor>) -> Result<()> {
        self.engine.add_cross(&mut self.matrix[index], &step.left, range.clone(), &step.right, false)?;
        match &step.rows {
            Some(rows) => self.engine.add_cross(&mut self.rows[index], &step.left, range, rows, false),
            None => Ok(()),
        }
    }

    /// The squared norm of each line.
    fn squares(&self, lines: &E::Tensor) -> Result<Vec<f64>> {
        let norms = self.engine.download(&self.engine.inverse_norms(lines)?)?;
        Ok(norms.iter().map(|&inverse| if inverse > 0.0 { f64::from(inverse).powi(-2) } else { 0.0 }).collect())
    }

    /// For the units of a panel that are left, their first channel and cost: `|L^-1 rows_q|^2` with `P_qq = L L^T`.
    fn panel_costs(&self, index: usize, range: Range<usize>, per_unit: usize, stays: &[bool], what: &str) -> Result<Vec<f64>> {
        let own = self.own_square(index, range.clone())?;
        let units = || range.clone().step_by(per_unit).filter(|&first| stays[first]).map(|first| first - range.start);
        if per_unit == 1 {
            let squares = self.squares(&self.rows[index])?;
            let cost = |i: usize| if own[(i, i)] > 0.0 { Ok(squares[i] / own[(i, i)]) } else { Err(lost_definiteness(what)) };
            return units().map(cost).collect();
        }
        let mut inverses = Mat::zeros(range.len(), range.len());
        for first in units() {
            let factor = factor(own.submatrix(first, first, per_unit, per_unit), what).map_err(|_| lost_definiteness(what))?;
            inverses.submatrix_mut(first, first, per_unit, per_unit).copy_from(inverse_of_factor(factor.L()));
        }
        let squares = self.squares(&self.combine(&inverses, &self.rows[index])?)?;
        Ok(units().map(|first| squares[first..first + per_unit].iter().sum()).collect())
    }

    /// What is not removed yet.
    fn stays(&self) -> Vec<bool> {
        let mut stays = vec![false; self.size];
        self.left.iter().for_each(|&channel| stays[channel] = true);
        stays
    }
}

/// Some columns of so many lines as lines: a product with ones, which is exact.
pub fn turned<E: Engine>(engine: &E, lines: &E::Tensor, count: usize, columns: Range<usize>) -> Result<E::Tensor> {
    engine.cross(lines, columns, &upload_columns(engine, Mat::identity(count, count).as_ref())?)
}

/// Columns as lines of a tensor.
pub fn upload_columns<E: Engine>(engine: &E, columns: MatRef<'_, f64>) -> Result<E::Tensor> {
    let lines = columns.nrows();
    let mut values = vec![0.0f32; lines * columns.ncols()];
    values.par_chunks_mut(lines.max(1)).zip(columns.par_col_iter()).for_each(|(line, column)| {
        line.iter_mut().zip(column.iter()).for_each(|(out, &value)| *out = value as f32);
    });
    engine.upload(&values, lines)
}

impl<E: Engine> Elimination for OnDevice<'_, E> {
    /// Gauss-Jordan in place: a panel's lines become `A_pp^-1 A_p:`, with `A_pp^-1` on the pivots, and every other line loses its share of them.
    fn invert(&mut self, what: &str) -> Result<()> {
        let engine = self.engine;
        for (index, range) in self.panels().enumerate() {
            crate::interrupt::check()?;
            let inverse = inverse_of_factor(factor(self.own_square(index, range.clone())?.as_ref(), what)?.L());
            let mut others = vec![1.0; self.size];
            others[range.clone()].fill(0.0);
            let others = engine.upload(&others, self.size)?;
            // Ones for the pivots' own square become `L^-1` in the step, and its inverse in the end.
            let mut ones = vec![0.0; range.len() * self.size];
            range.clone().enumerate().for_each(|(line, channel)| ones[line * self.size + channel] = 1.0);
            engine.scale_columns(&mut self.matrix[index], &others)?;
            engine.add(&mut self.matrix[index], &engine.upload(&ones, self.size)?)?;
            // Lines of channels that are through have the other sign across the diagonal.
            let signs: Vec<f32> = (0..self.size).map(|channel| if channel < range.start { 1.0 } else { -1.0 }).collect();
            let step = self.step(&inverse, &self.matrix[index], self.rows.get(index), &signs)?;
            for (other, range) in self.panels().enumerate().filter(|&(other, _)| other != index) {
                engine.scale_columns(&mut self.matrix[other], &others)?;
                self.take_step(other, range, &step)?;
            }
            let turned = inverse.transpose().to_owned();
            self.matrix[index] = self.combine(&turned, &step.right)?;
            if let Some(rows) = &step.rows {
                self.rows[index] = self.combine(&turned, rows)?;
            }
        }
        Ok(())
    }

    fn set_rows(&mut self, rows: Mat<f64>) -> Result<()> {
        self.place_rows(rows.as_ref())
    }

    fn channels(&self) -> usize {
        self.left.len()
    }

    fn costs(&self, channels_per_unit: usize, what: &str) -> Result<Vec<f64>> {
        let stays = self.stays();
        let mut costs = Vec::new();
        for (index, range) in self.panels().enumerate().filter(|(_, range)| stays[range.clone()].contains(&true)) {
            costs.extend(self.panel_costs(index, range, channels_per_unit, &stays, what)?);
        }
        Ok(costs)
    }

    fn remove(&mut self, channels: &[usize], what: &str) -> Result<f64> {
        crate::interrupt::check()?;
        let pivots: Vec<usize> = channels.iter().map(|&place| self.left[place]).collect();
        let [lines, rows] = self.lines(&pivots)?;
        let values = self.engine.download(&lines)?;
        let own = Mat::from_fn(pivots.len(), pivots.len(), |i, j| f64::from(values[i * self.size + pivots[j]]));
        let inverse = inverse_of_factor(factor(own.as_ref(), what)?.L());
        let step = self.step(&inverse, &lines, Some(&rows), &vec![-1.0; self.size])?;
        let lost = self.squares(step.rows.as_ref().expect("rows were given"))?.iter().sum();
        let mut stays = self.stays();
        pivots.iter().for_each(|&pivot| stays[pivot] = false);
        self.left.retain(|&channel| stays[channel]);
        for (index, range) in self.panels().enumerate().filter(|(_, range)| stays[range.clone()].contains(&true)) {
            self.take_step(index, range, &step)?;
        }
        Ok(lost)
    }

    fn take_rows(&mut self) -> Result<Mat<f64>> {
        let panels = self.rows.iter().map(|panel| self.engine.download(panel)).collect::<Result<Vec<_>>>()?;
        let mut rows = Mat::zeros(self.outputs, self.left.len());
        rows.par_col_iter_mut().zip(&self.left).for_each(|(column, &channel)| {
            let line = &panels[channel / self.panel][channel % self.panel * self.outputs..];
            column.iter_mut().zip(line).for_each(|(out, &value)| *out = f64::from(value));
        });
        Ok(rows)
    }
}
