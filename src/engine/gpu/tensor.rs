//! What lives on the device: activations and matrices.

use super::pool::Buffer;
use crate::error::Result;
use crate::tensor::{Dtype, HostTensor};
use std::cell::RefCell;
use std::rc::Rc;

/// How a tensor's numbers lie in f16, and what the kernels take that read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum F16Layout {
    /// `[rows, columns]`: products without matrix units.
    Rows,
    /// Tiles, their lines in order: attention on matrix units.
    Tiles,
    /// Tiles, their lines in pairs (`shaders/shared/tiles.wgsl`): products on matrix units.
    PairedTiles,
}

/// A tensor's numbers in f16, rows scaled by powers of two; kernels multiply the products of rows by their number of `scales`.
pub(super) struct F16Copy {
    pub layout: F16Layout,
    pub numbers: Buffer,
    /// `[rows]`, or one for 16 rows of tiles.
    pub scales: Buffer,
}

/// Row-major f32 `[rows, columns]` on the device, and the same in f16 once a product has asked for it.
pub struct Tensor {
    pub(super) rows: usize,
    pub(super) columns: usize,
    buffer: Buffer,
    f16: RefCell<Option<Rc<F16Copy>>>,
}

impl Tensor {
    /// `buffer` holds at least `rows * columns` numbers.
    pub(super) fn new(buffer: Buffer, rows: usize, columns: usize) -> Self {
        Self { rows, columns, buffer, f16: RefCell::default() }
    }

    pub(super) fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// The numbers, for a kernel that reads them, or is the first to write them.
    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The numbers, for a kernel that changes them.
    pub(super) fn changed(&mut self) -> &Buffer {
        self.forget_f16();
        &self.buffer
    }

    /// The numbers in f16, made at the first call, and at one for another layout: the products of one activation share them.
    pub(super) fn in_f16(&self, layout: F16Layout, make: impl FnOnce(F16Layout) -> Result<F16Copy>) -> Result<Rc<F16Copy>> {
        let known = self.f16.borrow().clone().filter(|known| known.layout == layout);
        if let Some(known) = known {
            return Ok(known);
        }
        let made = Rc::new(make(layout)?);
        self.f16.replace(Some(made.clone()));
        Ok(made)
    }

    /// Lets go of them.
    pub(super) fn forget_f16(&self) {
        self.f16.take();
    }
}

/// A matrix in its checkpoint format, or in f16, split by rows where it exceeds the largest binding.
pub struct Matrix {
    /// First row, rows and numbers of each panel.
    pub(super) panels: Vec<(usize, usize, Buffer)>,
    pub(super) dtype: Dtype,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Lines of the tiles in which matrix units take it; `None` where its rows follow one another.
    pub(super) tile: Option<usize>,
}

impl Matrix {
    /// In panels of at most so many rows, each brought to the device from its first row and number of rows.
    pub(super) fn in_panels(
        matrix: &HostTensor,
        panel_rows: usize,
        tile: Option<usize>,
        upload: impl Fn(usize, usize) -> Result<Buffer>,
    ) -> Result<Self> {
        let panels = (0..matrix.rows).step_by(panel_rows).map(|first| {
            let rows = panel_rows.min(matrix.rows - first);
            Ok((first, rows, upload(first, rows)?))
        });
        Ok(Self { panels: panels.collect::<Result<_>>()?, dtype: matrix.dtype, rows: matrix.rows, columns: matrix.columns, tile })
    }

    /// The constant by which kernels know the format.
    pub(super) fn format(&self) -> (&'static str, u32) {
        (
            "WEIGHT_FORMAT",
            match self.dtype {
                Dtype::F32 => 0,
                Dtype::F16 => 1,
                Dtype::Bf16 => 2,
            },
        )
    }
}
