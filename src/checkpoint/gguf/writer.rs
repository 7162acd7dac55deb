//! Writing a GGUF file tensor by tensor: metadata and headers first, then the data as it comes.

use super::value::{Value, write_text};
use super::{ALIGNMENT, MAGIC, STORAGES, VERSION, stored_bytes};
use crate::checkpoint::stored::Storage;
use crate::disk::StreamWriter;
use crate::error::Result;
use std::path::Path;

/// A tensor of a file to be written.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    /// Its name.
    pub name: String,
    /// `[rows, columns]`, or `[columns]`.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub storage: Storage,
}

impl GgufHeader {
    /// Bytes of its data.
    ///
    /// # Panics
    /// If its rows are no whole blocks of its storage.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let columns = self.shape.last().copied().unwrap_or(1);
        let rows = self.shape.iter().product::<usize>() / columns.max(1);
        stored_bytes(&self.storage, rows, columns).expect("rows are whole blocks")
    }
}

/// A file being written. Data must follow in the order of the headers.
pub struct GgufWriter {
    stream: StreamWriter,
    /// Bytes written of the current tensor.
    written: usize,
}

impl GgufWriter {
    /// Creates the file and writes metadata and headers.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[GgufHeader]) -> Result<Self> {
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            write_text(key, &mut head);
            value.write(&mut head);
        }
        let mut offset = 0;
        for tensor in tensors {
            write_text(&tensor.name, &mut head);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            // The format counts dimensions from the one whose neighbours lie side by side.
            tensor.shape.iter().rev().for_each(|&size| head.extend((size as u64).to_le_bytes()));
            let kind = STORAGES.iter().find(|(_, storage)| *storage == tensor.storage).expect("a storage of this format").0;
            head.extend(kind.to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        let mut stream = StreamWriter::create(path, head.len() + offset)?;
        stream.write(&head)?;
        Ok(Self { stream, written: 0 })
    }

    /// Appends bytes of the current tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        self.stream.write(bytes)
    }

    /// Ends the current tensor; the next begins at an aligned place.
    pub fn end_tensor(&mut self) -> Result<()> {
        let padding = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.written = 0;
        self.stream.write(&[0; ALIGNMENT][..padding])
    }

    /// Flushes everything to the disk.
    ///
    /// # Panics
    /// If data that the headers announced was not written.
    pub fn finish(self) -> Result<()> {
        self.stream.finish()
    }
}
