//! Sums of products of activations over all tokens: on the device, gathered in f32 over some ten thousand tokens, then added up in
//! f64 on the host.

use super::symmetric::Symmetric;
use crate::engine::Engine;
use crate::error::Result;
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

/// Tokens, or those of one batch if it has more, that are summed in f32 before they are added in f64: eight or more batches of a GPU, whose
/// sums the kernel adds one by one, at a rounding of 6e-8 each. Moving the matrix of a 7B MLP takes longer than summing one batch.
const CHUNK_TOKENS: usize = 32_768;
/// Columns whose products are kept in one tensor of the device, where it can bind them.
const DEVICE_COLUMNS: usize = 2048;

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

/// Bytes of the device that the sum of products of so many columns with themselves takes.
pub fn device_bytes(columns: usize) -> u64 {
    2 * columns as u64 * (columns + columns.min(DEVICE_COLUMNS)) as u64
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
