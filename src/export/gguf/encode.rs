//! The bytes of a tensor as a GGUF file stores them, made block by block from those of the checkpoint.

use crate::checkpoint::Storage;
use crate::checkpoint::gguf::{GgufWriter, q8_0};
use crate::compaction::CompactTensor;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor, narrowed};
use half::f16;
use rayon::prelude::*;

/// Bytes that are gathered before they are converted.
const BLOCK_BYTES: usize = 4 << 20;

/// Converts one tensor.
pub struct Encoder<'a> {
    name: &'a str,
    source: Dtype,
    target: &'a Storage,
    /// Channels of a head and bytes of a row, if rows are to be interleaved.
    interleave: Option<(usize, usize)>,
    /// Bytes that can only be converted together.
    group: usize,
    pending: Vec<u8>,
    writer: &'a mut GgufWriter,
}

impl<'a> Encoder<'a> {
    /// `head_dim` is given where the halves of each head's rows (a bias' channels) are to be interleaved.
    pub fn new(tensor: &'a CompactTensor, target: &'a Storage, head_dim: Option<usize>, writer: &'a mut GgufWriter) -> Result<Self> {
        let Storage::Plain(source) = tensor.storage else {
            return Err(Error::Unsupported(format!("tensor `{}` is {} and cannot be converted", tensor.name, tensor.storage.name())));
        };
        // A bias' channels are moved as a matrix' rows are.
        let row_bytes = source.size() * if tensor.shape.len() == 1 { 1 } else { tensor.shape[1] };
        let interleave = head_dim.map(|head_dim| (head_dim, row_bytes));
        let group = interleave.map_or(q8_0::BLOCK * source.size(), |(head_dim, row_bytes)| head_dim * row_bytes);
        Ok(Self { name: &tensor.name, source, target, interleave, group, pending: Vec::new(), writer })
    }

    /// Takes the next bytes of the tensor.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.interleave.is_none() && *self.target == Storage::Plain(self.source) {
            return self.writer.write(bytes);
        }
        for part in bytes.chunks(BLOCK_BYTES) {
            self.pending.extend_from_slice(part);
            if self.pending.len() >= BLOCK_BYTES.max(self.group) {
                self.convert(self.pending.len() / self.group * self.group)?;
            }
        }
        Ok(())
    }

    /// Converts what is left.
    pub fn finish(mut self) -> Result<()> {
        self.convert(self.pending.len())
    }

    /// Converts the first `count` pending bytes.
    fn convert(&mut self, count: usize) -> Result<()> {
        let rest = self.pending.split_off(count);
        let mut bytes = std::mem::replace(&mut self.pending, rest);
        if let Some((head_dim, row_bytes)) = self.interleave {
            bytes = interleave(&bytes, head_dim, row_bytes);
        }
        if *self.target == Storage::Plain(self.source) {
            return self.writer.write(&bytes);
        }
        let count = bytes.len() / self.source.size();
        let values = HostTensor::owning(bytes, self.source, 1, count).to_f32();
        let encoded = match self.target {
            Storage::Plain(dtype) => narrowed(*dtype, &values).ok_or_else(|| self.out_of_range())?,
            Storage::Q8_0 => {
                // A block's scale is an f16 of its largest magnitude over 127.
                if values.par_iter().any(|v| v.abs() > 127.0 * f16::MAX.to_f32()) {
                    return Err(self.out_of_range());
                }
                let mut blocks = Vec::new();
                q8_0::encode(&values, &mut blocks);
                blocks
            }
            Storage::Other(name) => return Err(Error::Unsupported(format!("tensor `{}` cannot be stored as {name}", self.name))),
        };
        self.writer.write(&encoded)
    }

    fn out_of_range(&self) -> Error {
        let wider = if *self.target == Storage::Plain(Dtype::Bf16) { "f32" } else { "bf16 or f32" };
        Error::NotFinite(format!(
            "tensor `{}` holds numbers beyond the range of {}; use --gguf-type {wider}",
            self.name,
            self.target.name()
        ))
    }
}

/// Rows `i` and `head_dim / 2 + i` of each head to rows `2i` and `2i + 1`.
fn interleave(rows: &[u8], head_dim: usize, row_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * row_bytes) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes)) {
            bytes.extend_from_slice(a);
            bytes.extend_from_slice(b);
        }
    }
    bytes
}
