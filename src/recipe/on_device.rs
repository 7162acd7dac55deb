//! Eliminations on the device, in f32: the products of every step, which are nearly all of the work, run as sums of products of the engine;
//! the pivots are factored on the host in f64. A ridge of a hundredth of the mean variance keeps f32 exact enough: the statistics
//! themselves are sums in f32.

use super::elimination::Elimination;
use super::linear_algebra::{factor, lost_definiteness};
use super::symmetric::{PANEL, Symmetric};
use crate::engine::Engine;
use crate::error::Result;
use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, MatRef};
use std::ops::Range;

/// The whole matrix, both halves, as panels of rows on the device, and beside each panel the rows that take part, turned: a line a channel.
/// Removed channels stay where they are and are not looked at again.
pub struct OnDevice<'a, E: Engine> {
    engine: &'a E,
    /// Panels `[PANEL, size]`.
    matrix: Vec<E::Tensor>,
    /// Panels `[PANEL, outputs]`; none if there are no rows.
    rows: Vec<E::Tensor>,
    outputs: usize,
    diagonal: Vec<f64>,
    /// Channels that are left.
    left: Vec<usize>,
}

/// What a step subtracts: `matrix -= left^T right`, and the same of the rows.
struct Step<T> {
    /// `-A_p:` `[pivots, size]`.
    left: T,
    /// `A_pp^-1 A_p:` `[pivots, size]`.
    right: T,
    /// `A_pp^-1 rows_p` `[pivots, outputs]`, if there are rows.
    rows: Option<T>,
}

impl<'a, E: Engine> OnDevice<'a, E> {
    /// What so many channels and outputs take: the matrix, the rows, and a step of either.
    #[must_use]
    pub fn bytes(size: usize, outputs: usize) -> u64 {
        4 * (size + size.div_ceil(4) + 4 * PANEL) as u64 * (size + outputs) as u64
    }

    /// Brings a matrix and rows `[outputs, size]` to the device; there may be no rows yet.
    pub fn new(engine: &'a E, matrix: &Symmetric, rows: MatRef<'_, f64>) -> Result<Self> {
        let size = matrix.size();
        let panel = |range: Range<usize>| upload(engine, matrix.columns(&range.collect::<Vec<_>>()).as_ref());
        let panels = ranges(size).map(panel).collect::<Result<_>>()?;
        let diagonal = (0..size).map(|i| matrix.get(i, i)).collect();
        let mut system = Self { engine, matrix: panels, rows: Vec::new(), outputs: 0, diagonal, left: (0..size).collect() };
        if rows.nrows() > 0 {
            system.place_rows(rows)?;
        }
        Ok(system)
    }

    fn place_rows(&mut self, rows: MatRef<'_, f64>) -> Result<()> {
        self.outputs = rows.nrows();
        self.rows = ranges(self.size()).map(|range| upload(self.engine, rows.subcols(range.start, range.len()))).collect::<Result<_>>()?;
        Ok(())
    }

    fn size(&self) -> usize {
        self.diagonal.len()
    }

    /// A tensor's lines as columns.
    fn download(&self, tensor: &E::Tensor) -> Result<Mat<f64>> {
        let columns = self.engine.columns(tensor);
        let values = self.engine.download(tensor)?;
        Ok(Mat::from_fn(columns, values.len() / columns, |i, j| f64::from(values[j * columns + i])))
    }

    /// Lines of the matrix and of the rows at some channels, as columns: picked out by products with ones, which are exact.
    fn lines(&self, channels: &[usize]) -> Result<(Mat<f64>, Mat<f64>)> {
        let engine = self.engine;
        let mut matrix = engine.zeros(channels.len(), self.size())?;
        let mut rows = engine.zeros(channels.len(), self.outputs)?;
        for (index, range) in ranges(self.size()).enumerate() {
            let mut picks = vec![0.0f32; range.len() * channels.len()];
            for (place, channel) in channels.iter().enumerate().filter(|(_, channel)| range.contains(channel)) {
                picks[(channel - range.start) * channels.len() + place] = 1.0;
            }
            if picks.iter().any(|&pick| pick != 0.0) {
                let picks = engine.upload(&picks, channels.len())?;
                engine.add_cross(&mut matrix, &picks, 0..channels.len(), &self.matrix[index], false)?;
                engine.add_cross(&mut rows, &picks, 0..channels.len(), &self.rows[index], false)?;
            }
        }
        Ok((self.download(&matrix)?, self.download(&rows)?))
    }

    /// The diagonal after a step of these lines.
    fn follow(&mut self, left: &Mat<f64>, right: &Mat<f64>) {
        for (left, right) in left.col_iter().zip(right.col_iter()) {
            self.diagonal.iter_mut().zip(left.iter()).zip(right.iter()).for_each(|((value, left), right)| *value += left * right);
        }
    }

    fn subtract(&mut self, index: usize, range: Range<usize>, step: &Step<E::Tensor>) -> Result<()> {
        self.engine.add_cross(&mut self.matrix[index], &step.left, range.clone(), &step.right, false)?;
        match &step.rows {
            Some(rows) => self.engine.add_cross(&mut self.rows[index], &step.left, range, rows, false),
            None => Ok(()),
        }
    }
}

fn ranges(size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..size).step_by(PANEL).map(move |first| first..(first + PANEL).min(size))
}

/// Columns as lines of a tensor.
fn upload<E: Engine>(engine: &E, columns: MatRef<'_, f64>) -> Result<E::Tensor> {
    let values: Vec<f32> = columns.col_iter().flat_map(|column| column.iter().map(|&value| value as f32)).collect();
    engine.upload(&values, columns.nrows())
}

/// `columns A^-1` for a factored, symmetric `A`.
fn times_inverse(factor: &Llt<f64>, columns: &Mat<f64>) -> Mat<f64> {
    let mut result = columns.clone();
    factor.solve_in_place(result.transpose_mut());
    result
}

impl<E: Engine> Elimination for OnDevice<'_, E> {
    /// Gauss-Jordan in place: a panel's lines become `A_pp^-1 A_p:`, with `A_pp^-1` on the pivots, and every other line loses its share of them.
    fn invert(&mut self, what: &str) -> Result<()> {
        for (index, range) in ranges(self.size()).enumerate() {
            crate::interrupt::check()?;
            let mut left = self.download(&self.matrix[index])?;
            let factor = factor(&left, &range.clone().collect::<Vec<_>>(), what)?;
            let mut right = times_inverse(&factor, &left);
            right.subrows_mut(range.start, range.len()).copy_from(times_inverse(&factor, &Mat::identity(range.len(), range.len())));
            let rows = match self.rows.get(index) {
                Some(rows) => Some(upload(self.engine, times_inverse(&factor, &self.download(rows)?).as_ref())?),
                None => None,
            };
            // Lines of channels that are through have the other sign across the diagonal.
            let open = self.size() - range.start;
            left.subrows_mut(range.start, open).col_iter_mut().for_each(|column| column.iter_mut().for_each(|value| *value = -*value));
            self.follow(&left, &right);
            range.clone().for_each(|pivot| self.diagonal[pivot] = right[(pivot, pivot - range.start)]);
            let step = Step { left: upload(self.engine, left.as_ref())?, right: upload(self.engine, right.as_ref())?, rows };
            let mut others = vec![1.0; self.size()];
            others[range].fill(0.0);
            let others = self.engine.upload(&others, self.size())?;
            for (other, range) in ranges(self.size()).enumerate().filter(|&(other, _)| other != index) {
                self.engine.scale_columns(&mut self.matrix[other], &others)?;
                self.subtract(other, range, &step)?;
            }
            self.matrix[index] = step.right;
            if let Some(rows) = step.rows {
                self.rows[index] = rows;
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

    fn costs(&self, _: usize, what: &str) -> Result<Vec<f64>> {
        if self.left.iter().any(|&channel| self.diagonal[channel] <= 0.0) {
            return Err(lost_definiteness(what));
        }
        let mut squares = Vec::with_capacity(self.size());
        for panel in &self.rows {
            let norms = self.engine.download(&self.engine.inverse_norms(panel)?)?;
            squares.extend(norms.iter().map(|&inverse| if inverse > 0.0 { f64::from(inverse).powi(-2) } else { 0.0 }));
        }
        Ok(self.left.iter().map(|&channel| squares[channel] / self.diagonal[channel]).collect())
    }

    fn remove(&mut self, channels: &[usize], what: &str) -> Result<f64> {
        crate::interrupt::check()?;
        let pivots: Vec<usize> = channels.iter().map(|&place| self.left[place]).collect();
        let (left, rows) = self.lines(&pivots)?;
        let factor = factor(&left, &pivots, what)?;
        let (right, new_rows) = (times_inverse(&factor, &left), times_inverse(&factor, &rows));
        let lost = rows.col_iter().zip(new_rows.col_iter()).map(|(a, b)| a.transpose() * b).sum();
        let left = -left;
        self.follow(&left, &right);
        let mut stays = vec![true; self.size()];
        pivots.iter().for_each(|&pivot| stays[pivot] = false);
        self.left.retain(|&channel| stays[channel]);
        let engine = self.engine;
        let rows = Some(upload(engine, new_rows.as_ref())?);
        let step = Step { left: upload(engine, left.as_ref())?, right: upload(engine, right.as_ref())?, rows };
        for (index, range) in ranges(self.size()).enumerate() {
            if self.left.iter().any(|channel| range.contains(channel)) {
                self.subtract(index, range, &step)?;
            }
        }
        Ok(lost)
    }

    fn take_rows(&mut self) -> Result<Mat<f64>> {
        let panels = self.rows.iter().map(|panel| self.download(panel)).collect::<Result<Vec<_>>>()?;
        Ok(Mat::from_fn(self.outputs, self.left.len(), |i, j| panels[self.left[j] / PANEL][(i, self.left[j] % PANEL)]))
    }
}
