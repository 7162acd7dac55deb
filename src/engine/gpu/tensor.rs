//! What lives on the device: activations and matrices.

use super::pool::Buffer;
use crate::engine::Dtype;
use crate::error::Result;
use std::cell::RefCell;
use std::rc::Rc;

/// A tensor's numbers in f16, each row scaled by a power of two; kernels multiply a row's products by its number of `scales`.
pub(super) struct Halves {
    /// `[rows, columns]`.
    pub numbers: Buffer,
    /// `[rows]`.
    pub scales: Buffer,
}

/// Row-major f32 `[rows, columns]` on the device, and the same in f16 once a product has asked for it.
pub struct Tensor {
    pub(super) rows: usize,
    pub(super) columns: usize,
    buffer: Buffer,
    halves: RefCell<Option<Rc<Halves>>>,
}

impl Tensor {
    /// `buffer` holds at least `rows * columns` numbers.
    pub(super) fn new(buffer: Buffer, rows: usize, columns: usize) -> Self {
        Self { rows, columns, buffer, halves: RefCell::default() }
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
        self.forget_halves();
        &self.buffer
    }

    /// The numbers in f16, made at the first call: the products of one activation share them.
    pub(super) fn halves(&self, make: impl FnOnce() -> Result<Halves>) -> Result<Rc<Halves>> {
        let known = self.halves.borrow().clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let made = Rc::new(make()?);
        self.halves.replace(Some(made.clone()));
        Ok(made)
    }

    /// Lets go of them.
    pub(super) fn forget_halves(&self) {
        self.halves.take();
    }
}

/// A matrix in its checkpoint format, split by rows where it exceeds the largest binding.
pub struct Matrix {
    /// First row, rows and numbers of each panel.
    pub(super) panels: Vec<(usize, usize, Buffer)>,
    pub(super) dtype: Dtype,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Matrix {
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
