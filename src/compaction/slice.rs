//! Cutting a matrix: runs of rows and columns that stay, removed or zeroed.

use crate::error::Result;
use crate::interrupt;
use crate::tensor::HostTensor;
use std::ops::Range;

/// Bytes gathered before they are written.
const BLOCK_BYTES: usize = 8 << 20;

/// Which rows and columns of a tensor stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Rows and columns of the tensor.
    of: [usize; 2],
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
    /// Zero what does not stay, instead of removing it.
    zero: bool,
}

/// Ascending places, each standing for `width` consecutive ones, as runs.
fn runs(kept: &[usize], width: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for &unit in kept {
        let range = unit * width..(unit + 1) * width;
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => runs.push(range),
        }
    }
    runs
}

fn length(runs: &[Range<usize>]) -> usize {
    runs.iter().map(ExactSizeIterator::len).sum()
}

impl Slice {
    /// Everything stays.
    #[must_use]
    pub fn whole([rows, columns]: [usize; 2]) -> Self {
        Self { of: [rows, columns], rows: vec![0..rows], columns: vec![0..columns], zero: false }
    }

    /// Only the rows of the kept units stay; `width` rows a unit.
    #[must_use]
    pub fn rows(mut self, kept: &[usize], width: usize) -> Self {
        self.rows = runs(kept, width);
        self
    }

    /// Only the columns of the kept units stay; `width` columns a unit.
    #[must_use]
    pub fn columns(mut self, kept: &[usize], width: usize) -> Self {
        self.columns = runs(kept, width);
        self
    }

    /// Zeroes what does not stay, so that the shape remains.
    #[must_use]
    pub fn zeroing(mut self, zero: bool) -> Self {
        self.zero = zero;
        self
    }

    /// Rows and columns of the result.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        if self.zero { self.of } else { [length(&self.rows), length(&self.columns)] }
    }

    /// The result in memory; the tensor itself where everything stays.
    pub fn cut(&self, tensor: &HostTensor) -> Result<HostTensor> {
        if *self == Self::whole(self.of) {
            return Ok(tensor.clone());
        }
        let [rows, columns] = self.shape();
        let mut bytes = Vec::with_capacity(rows * columns * tensor.dtype.size());
        self.write(tensor, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(HostTensor::owning(bytes, tensor.dtype, rows, columns))
    }

    /// Hands the result to `sink`, block by block; kept rows that are whole go straight from the map.
    pub fn write(&self, tensor: &HostTensor, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = tensor.bytes.as_ref();
        let (row_bytes, size) = (tensor.row_bytes(), tensor.dtype.size());
        let whole_columns = length(&self.columns) == tensor.columns;
        let mut block = Vec::new();
        let mut next_row = 0;
        for rows in &self.rows {
            if self.zero {
                write_zeros(sink, (rows.start - next_row) * row_bytes)?;
                next_row = rows.end;
            }
            let step = (BLOCK_BYTES / row_bytes.max(1)).max(1);
            for first in rows.clone().step_by(step) {
                interrupt::check()?;
                let part = &bytes[first * row_bytes..(first + step).min(rows.end) * row_bytes];
                if whole_columns {
                    sink(part)?;
                    continue;
                }
                block.clear();
                for row in part.chunks_exact(row_bytes) {
                    let begin = block.len();
                    if self.zero {
                        block.resize(begin + row_bytes, 0);
                    }
                    for run in &self.columns {
                        let run = run.start * size..run.end * size;
                        if self.zero {
                            block[begin + run.start..begin + run.end].copy_from_slice(&row[run]);
                        } else {
                            block.extend_from_slice(&row[run]);
                        }
                    }
                }
                sink(&block)?;
            }
        }
        if self.zero { write_zeros(sink, (tensor.rows - next_row) * row_bytes) } else { Ok(()) }
    }
}

fn write_zeros(sink: &mut dyn FnMut(&[u8]) -> Result<()>, mut count: usize) -> Result<()> {
    let zeros = [0u8; 1 << 14];
    while count > 0 {
        let part = count.min(zeros.len());
        sink(&zeros[..part])?;
        count -= part;
    }
    Ok(())
}
