//! Symmetric matrices of a site's channels, half of which are kept.

use super::products::{Number, add_product, cast};
use crate::error::{Error, Result};
use crate::statistics::SiteCovariance;
use faer::{Mat, MatRef};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of a panel.
pub const PANEL: usize = 256;

/// A symmetric matrix as panels of columns down to the diagonal: `size^2 / 2` numbers and a little more.
#[derive(Clone)]
pub struct Symmetric<T = f64> {
    size: usize,
    /// Panel `i` holds the columns from `i * PANEL` on, and the rows up to its last column.
    panels: Vec<Mat<T>>,
}

/// The panels' columns.
pub fn panels(size: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..size.div_ceil(PANEL)).map(move |panel| columns_of(size, panel))
}

fn columns_of(size: usize, panel: usize) -> Range<usize> {
    panel * PANEL..((panel + 1) * PANEL).min(size)
}

/// As moments are summed.
impl Symmetric {
    /// Of the upper triangle that `entry(row, column)` gives.
    pub fn from_fn(size: usize, entry: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let mut matrix = Self::zeros(size);
        matrix.each_column(|j, column| column.iter_mut().enumerate().for_each(|(i, value)| *value = entry(i, j)));
        matrix
    }

    /// As statistics hold it.
    #[must_use]
    pub fn unpacked(covariance: &SiteCovariance) -> Self {
        let mut matrix = Self::zeros(covariance.mean.len());
        matrix.each_column(|j, column| column.iter_mut().zip(covariance.column(j)).for_each(|(out, value)| *out = value));
        matrix
    }

    /// The mean of the diagonal.
    #[must_use]
    pub fn mean_of_diagonal(&self) -> f64 {
        (0..self.size).map(|i| self.get(i, i)).sum::<f64>() / self.size.max(1) as f64
    }

    /// Adds to the diagonal.
    pub fn add_to_diagonal(&mut self, values: &[f64]) {
        for (index, panel) in self.panels.iter_mut().enumerate() {
            (0..panel.ncols()).for_each(|j| panel[(index * PANEL + j, j)] += values[index * PANEL + j]);
        }
    }

    /// Some rows of some columns.
    #[must_use]
    pub fn block(&self, rows: &[usize], columns: &[usize]) -> Mat<f64> {
        let mut chosen = Mat::zeros(rows.len(), columns.len());
        chosen.par_col_iter_mut().zip(columns.par_iter()).for_each(|(out, &column)| {
            out.iter_mut().zip(rows).for_each(|(out, &row)| *out = self.get(row, column));
        });
        chosen
    }

    /// Some rows and the same columns of it.
    #[must_use]
    pub fn principal(&self, places: &[usize]) -> Self {
        let mut chosen = Self::zeros(places.len());
        chosen.each_column(|j, column| column.iter_mut().zip(places).for_each(|(out, &row)| *out = self.get(row, places[j])));
        chosen
    }

    /// In f32.
    #[must_use]
    pub fn rounded(&self) -> Symmetric<f32> {
        Symmetric { size: self.size, panels: self.panels.iter().map(|panel| cast(panel.as_ref())).collect() }
    }

    /// Fails, naming `what` and the channel, unless the diagonal is finite.
    pub fn check_finite(&self, what: &str) -> Result<()> {
        match (0..self.size).find(|&i| !self.get(i, i).is_finite()) {
            None => Ok(()),
            Some(channel) => Err(Error::activations_not_finite(format_args!("at {what}, channel {channel}"))),
        }
    }
}

impl<T: Number> Symmetric<T> {
    /// Zeros.
    #[must_use]
    pub fn zeros(size: usize) -> Self {
        let panel = |index| {
            let columns = columns_of(size, index);
            Mat::zeros(columns.end, columns.len())
        };
        Self { size, panels: (0..size.div_ceil(PANEL)).map(panel).collect() }
    }

    /// Rows, and columns.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Column `column` down to the diagonal.
    #[must_use]
    pub fn column(&self, column: usize) -> &[T] {
        &self.panels[column / PANEL].col_as_slice(column % PANEL)[..=column]
    }

    /// Visits every column, down to its diagonal, on all threads.
    pub fn each_column(&mut self, visit: impl Fn(usize, &mut [T]) + Sync) {
        self.panels.iter_mut().enumerate().for_each(|(index, panel)| {
            panel.par_col_iter_mut().enumerate().for_each(|(within, column)| {
                let column_index = index * PANEL + within;
                let values = column.try_as_col_major_mut().expect("a column lies in one piece").as_slice_mut();
                visit(column_index, &mut values[..=column_index]);
            });
        });
    }

    /// An entry.
    #[must_use]
    pub fn get(&self, i: usize, j: usize) -> T {
        self.column(i.max(j))[i.min(j)]
    }

    /// Whole columns: `[size, columns]`.
    #[must_use]
    pub fn columns(&self, columns: &[usize]) -> Mat<T> {
        let mut chosen = Mat::zeros(self.size, columns.len());
        // Above the diagonal a column lies in one piece, below it is a row: one number of every later column.
        chosen.par_row_chunks_mut(PANEL).enumerate().for_each(|(index, mut out)| {
            let rows = columns_of(self.size, index);
            for (place, &column) in columns.iter().enumerate() {
                let upper = self.column(column);
                for row in rows.clone().take_while(|&row| row <= column) {
                    out[(row - rows.start, place)] = upper[row];
                }
            }
            for row in rows.clone() {
                let own = self.column(row);
                for (place, &column) in columns.iter().enumerate().filter(|&(_, &column)| column < row) {
                    out[(row - rows.start, place)] = own[column];
                }
            }
        });
        chosen
    }

    /// `self -= x^T x` for `x [k, size - first]`, from row and column `first` on, where a panel begins or all end.
    pub fn subtract_square(&mut self, first: usize, x: MatRef<'_, T>) {
        let size = self.size;
        // The largest panels first, so that no thread is left with one at the end.
        self.panels.par_iter_mut().enumerate().skip(first.div_ceil(PANEL)).rev().with_max_len(1).for_each(|(index, panel)| {
            let Range { start, end } = columns_of(size, index);
            let right = x.subcols(start - first, end - start);
            add_product(panel.subrows_mut(first, end - first), x.subcols(0, end - first).transpose(), right, T::of(-1.0));
        });
    }

    /// Replaces whole rows, and the same columns, by `values [rows, size]`.
    pub fn replace(&mut self, rows: Range<usize>, values: MatRef<'_, T>) {
        self.each_column(|j, column| {
            if rows.contains(&j) {
                let from = values.row(j - rows.start);
                column.iter_mut().enumerate().for_each(|(i, out)| *out = from[i]);
            } else if j >= rows.end {
                rows.clone().for_each(|i| column[i] = values[(i - rows.start, j)]);
            }
        });
    }

    /// Changes every sign.
    pub fn negate(&mut self) {
        self.each_column(|_, column| column.iter_mut().for_each(|value| *value = -*value));
    }

    /// Keeps some rows and the same columns, ascending `places`, giving memory back on the way.
    pub fn keep(&mut self, places: &[usize]) {
        let mut kept = Self { size: places.len(), panels: Vec::new() };
        for index in 0..places.len().div_ceil(PANEL) {
            let columns = columns_of(places.len(), index);
            // Panels before the first column that is still needed are done with.
            let done = places[columns.start] / PANEL;
            self.panels[..done].iter_mut().for_each(|panel| *panel = Mat::new());
            let mut panel = Mat::zeros(columns.end, columns.len());
            panel.par_col_iter_mut().enumerate().for_each(|(within, out)| {
                let column = columns.start + within;
                let from = self.column(places[column]);
                out.iter_mut().zip(&places[..=column]).for_each(|(out, &row)| *out = from[row]);
            });
            kept.panels.push(panel);
        }
        *self = kept;
    }
}
