//! Writing safetensors tensor by tensor: the header first, then the data as it comes, so no model is ever held in memory.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// One tensor of a file to be written.
#[derive(Debug, Clone)]
pub struct TensorHeader {
    /// Its name.
    pub name: String,
    /// Its number format as safetensors writes it, such as `BF16`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes of its data.
    pub bytes: usize,
}

/// A file being written. Data must follow in the order of the headers.
pub struct SafetensorsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    missing: usize,
}

impl SafetensorsWriter {
    /// Creates the file and writes its header, padded so that the data starts at a multiple of 8 bytes.
    pub fn create(path: &Path, tensors: &[TensorHeader], metadata: &BTreeMap<String, String>) -> Result<Self> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!(metadata));
        let mut offset = 0;
        for tensor in tensors {
            let range = [offset, offset + tensor.bytes];
            offset = range[1];
            let entry = serde_json::json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": range});
            header.insert(tensor.name.clone(), entry);
        }
        let mut text = serde_json::Value::Object(header).to_string();
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let file = File::create(path).map_err(Error::io(path, "cannot create"))?;
        let mut writer = Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 20, file), missing: 8 + text.len() + offset };
        writer.write(&(text.len() as u64).to_le_bytes())?;
        writer.write(text.as_bytes())?;
        Ok(writer)
    }

    /// Appends bytes of the current tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.missing = self.missing.checked_sub(bytes.len()).expect("more data than the header announced");
        self.file.write_all(bytes).map_err(Error::io(&self.path, "cannot write"))
    }

    /// Flushes everything to the disk.
    ///
    /// # Panics
    /// If data that the header announced was not written.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.missing, 0, "less data than the header announced");
        let path = self.path;
        let file = self.file.into_inner().map_err(|e| Error::io(&path, "cannot write")(e.into_error()))?;
        file.sync_all().map_err(Error::io(&path, "cannot write"))
    }
}
