//! A tensor still in its file, and how its numbers are read: in a checkpoint's number formats or in the forms that GGUF files have.

use super::gguf::q8_0;
use super::head_rows::HeadRows;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor, SharedBytes};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// One by one.
    Plain(Dtype),
    /// In blocks of 32, each an f16 scale and 32 signed bytes.
    Q8_0,
    /// In a way that is not computed with, by its name.
    Other(String),
}

impl Storage {
    /// The name as file headers write it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Plain(dtype) => dtype.name(),
            Self::Q8_0 => "Q8_0",
            Self::Other(name) => name,
        }
    }
}

/// A tensor still in its file.
#[derive(Clone)]
pub struct StoredTensor {
    /// Its name in a checkpoint.
    pub name: String,
    /// How its numbers are stored.
    pub storage: Storage,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes in the map.
    pub bytes: SharedBytes,
    /// The order of its heads' rows, if it is another one than here.
    pub heads: Option<HeadRows>,
    /// By which its numbers are to be multiplied.
    pub scale: f32,
    /// Its file.
    pub file: Arc<Path>,
}

impl StoredTensor {
    /// Numbers it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of a matrix; 1 for a vector or a single number. All dimensions but the last count as rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.len() / self.columns().max(1)
    }

    /// Numbers in a row.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// An error about this tensor.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.file, format!("tensor `{}` {message}", self.name))
    }

    /// Whether its numbers are read as they are stored, in their order.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.heads.is_none() && self.scale == 1.0
    }

    /// Its numbers in a checkpoint's format and order: the map's own bytes where they are stored so, else a copy.
    ///
    /// # Errors
    /// If its numbers are stored in a way that is not computed with.
    pub fn read(&self) -> Result<HostTensor> {
        let stored = self.read_rows(0..self.rows())?;
        Ok(match &self.heads {
            Some(heads) => heads.ordered(&stored),
            None => stored,
        })
    }

    /// The same; fails if one of its numbers is NaN or infinite.
    pub fn read_finite(&self) -> Result<HostTensor> {
        let host = self.read()?;
        if host.is_finite() { Ok(host) } else { Err(self.not_finite()) }
    }

    /// The error of a tensor that holds NaN or infinity.
    #[must_use]
    pub fn not_finite(&self) -> Error {
        Error::weights_not_finite(Some(&self.file), &self.name)
    }

    /// Some of its rows, in the order in which they are stored, times its scale.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<HostTensor> {
        let columns = self.columns();
        let stored = match &self.storage {
            Storage::Plain(dtype) => {
                let row_bytes = columns * dtype.size();
                HostTensor::new(self.bytes.slice(rows.start * row_bytes..rows.end * row_bytes), *dtype, rows.len(), columns)
            }
            Storage::Q8_0 => {
                let row_bytes = q8_0::bytes(columns);
                let mut values = vec![0.0f32; rows.len() * columns];
                q8_0::decode(&self.bytes.as_ref()[rows.start * row_bytes..rows.end * row_bytes], &mut values);
                HostTensor::from_f32(values, columns)
            }
            Storage::Other(name) => {
                let supported = "supported are F32, F16, BF16 and GGUF's Q8_0 (other quantised models cannot be pruned)";
                return Err(self.error(format_args!("is {name}; {supported}")));
            }
        };
        Ok(if self.scale == 1.0 { stored } else { stored.scaled(self.scale) })
    }
}
