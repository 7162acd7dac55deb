//! A symmetric matrix and rows on the device, in panels of lines.

use crate::engine::Engine;
use crate::error::Result;
use crate::recipe::symmetric::{PANEL, Symmetric};
use faer::{Mat, MatRef};
use rayon::prelude::*;
use std::ops::Range;

/// Some lines of the matrix, and the rows that take part, transposed: a line a channel.
pub struct Panel<T> {
    lines: usize,
    /// `[lines, channels]`.
    pub matrix: T,
    /// `[lines, outputs]`, if there are rows.
    pub rows: Option<T>,
}

/// The whole matrix, both halves. A panel holds whole units.
pub struct Panels<'a, E: Engine> {
    engine: &'a E,
    all: Vec<Panel<E::Tensor>>,
    outputs: usize,
}

/// Lines of a panel for units of so many channels.
pub fn panel_lines(channels_per_unit: usize) -> usize {
    channels_per_unit * (PANEL / channels_per_unit).max(1)
}

impl<'a, E: Engine> Panels<'a, E> {
    /// Brings a matrix to the device. A unit owns a run of channels.
    pub fn new(engine: &'a E, matrix: &Symmetric, channels_per_unit: usize) -> Result<Self> {
        let (size, most) = (matrix.size(), panel_lines(channels_per_unit));
        let panel = |first: usize| {
            let channels: Vec<usize> = (first..size.min(first + most)).collect();
            let lines = upload_columns(engine, matrix.columns(&channels).as_ref())?;
            Ok(Panel { lines: channels.len(), matrix: lines, rows: None })
        };
        Ok(Self { engine, all: (0..size).step_by(most).map(panel).collect::<Result<_>>()?, outputs: 0 })
    }

    /// Brings rows `[outputs, channels]` to the device, instead of others.
    pub fn set_rows(&mut self, rows: MatRef<'_, f64>) -> Result<()> {
        self.outputs = rows.nrows();
        for (panel, range) in self.ranges().into_iter().enumerate() {
            self.all[panel].rows = Some(upload_columns(self.engine, rows.subcols(range.start, range.len()))?);
        }
        Ok(())
    }

    /// The rows, `[outputs, channels]`.
    pub fn rows(&self) -> Result<Mat<f64>> {
        let mut rows = Mat::zeros(self.outputs, self.channels());
        for (panel, range) in self.all.iter().zip(self.ranges()) {
            let Some(own) = &panel.rows else { continue };
            let values = self.engine.download(own)?;
            let columns = rows.subcols_mut(range.start, range.len());
            columns.par_col_iter_mut().zip(values.par_chunks_exact(self.outputs)).for_each(|(column, line)| {
                column.iter_mut().zip(line).for_each(|(out, &value)| *out = f64::from(value));
            });
        }
        Ok(rows)
    }

    /// Channels of the matrix.
    pub fn channels(&self) -> usize {
        self.all.iter().map(|panel| panel.lines).sum()
    }

    /// Channels of each panel.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let range = |next: &mut usize, panel: &Panel<E::Tensor>| {
            *next += panel.lines;
            Some(*next - panel.lines..*next)
        };
        self.all.iter().scan(0, range).collect()
    }

    /// A panel.
    pub fn get(&self, index: usize) -> &Panel<E::Tensor> {
        &self.all[index]
    }

    /// A panel that is to change.
    pub fn get_mut(&mut self, index: usize) -> &mut Panel<E::Tensor> {
        &mut self.all[index]
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Channels as [`Engine::gather`] takes them.
    fn places(&self, channels: impl Iterator<Item = usize>) -> Result<E::Tensor> {
        self.engine.upload(&channels.map(|channel| channel as f32).collect::<Vec<_>>(), 1)
    }

    /// The matrix between some channels, both ascending: `[lines, columns]`.
    pub fn pick(&self, lines: &[usize], columns: &[usize]) -> Result<E::Tensor> {
        self.gather(|panel| Some(&panel.matrix), lines, &self.places(columns.iter().copied())?, columns.len())
    }

    /// The rows of some channels, ascending: `[channels, outputs]`.
    pub fn pick_rows(&self, lines: &[usize]) -> Result<E::Tensor> {
        self.gather(|panel| panel.rows.as_ref(), lines, &self.places(0..self.outputs)?, self.outputs)
    }

    fn gather(
        &self,
        part: impl Fn(&Panel<E::Tensor>) -> Option<&E::Tensor>,
        lines: &[usize],
        columns: &E::Tensor,
        width: usize,
    ) -> Result<E::Tensor> {
        let mut picked = self.engine.zeros(lines.len(), width)?;
        let mut first = 0;
        for (panel, range) in self.all.iter().zip(self.ranges()) {
            let within = within(lines, &range);
            if let Some(from) = part(panel).filter(|_| !within.is_empty()) {
                self.engine.gather(&mut picked, first, from, &self.places(within.iter().copied())?, columns)?;
                first += within.len();
            }
        }
        Ok(picked)
    }

    /// The square of some channels, ascending, on the host.
    pub fn own_square(&self, channels: &[usize]) -> Result<Mat<f64>> {
        let size = channels.len();
        let values = self.engine.download(&self.pick(channels, channels)?)?;
        Ok(Mat::from_fn(size, size, |i, j| f64::from(values[i * size + j])))
    }

    /// Keeps some channels, ascending and at least one, panel by panel.
    pub fn close_up(&mut self, left: &[usize]) -> Result<()> {
        let (columns, outputs) = (self.places(left.iter().copied())?, self.places(0..self.outputs)?);
        let ranges = self.ranges();
        let mut closed = Vec::with_capacity(ranges.len());
        for (panel, range) in std::mem::take(&mut self.all).into_iter().zip(ranges) {
            let within = within(left, &range);
            if within.is_empty() {
                continue;
            }
            let lines = self.places(within.iter().copied())?;
            let part = |from: &E::Tensor, columns: &E::Tensor, width: usize| -> Result<E::Tensor> {
                let mut part = self.engine.zeros(within.len(), width)?;
                self.engine.gather(&mut part, 0, from, &lines, columns)?;
                Ok(part)
            };
            let matrix = part(&panel.matrix, &columns, left.len())?;
            let rows = panel.rows.as_ref().map(|rows| part(rows, &outputs, self.outputs)).transpose()?;
            closed.push(Panel { lines: within.len(), matrix, rows });
        }
        self.all = closed;
        Ok(())
    }
}

/// Those of some channels that a panel of this range has, as its lines.
fn within(channels: &[usize], range: &Range<usize>) -> Vec<usize> {
    channels.iter().filter(|channel| range.contains(channel)).map(|channel| channel - range.start).collect()
}

/// Some columns of so many lines as lines: a product with ones, which is exact.
pub fn transposed<E: Engine>(engine: &E, lines: &E::Tensor, count: usize, columns: Range<usize>) -> Result<E::Tensor> {
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
