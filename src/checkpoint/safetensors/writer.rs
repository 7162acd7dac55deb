//! Writing safetensors tensor by tensor: the header first, then the data as it comes, so no model is ever held in memory.

use crate::disk::StreamWriter;
use crate::error::Result;
use std::collections::BTreeMap;
use std::path::Path;

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
    stream: StreamWriter,
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
        let mut stream = StreamWriter::create(path, 8 + text.len() + offset)?;
        stream.write(&(text.len() as u64).to_le_bytes())?;
        stream.write(text.as_bytes())?;
        Ok(Self { stream })
    }

    /// Appends bytes of the current tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write(bytes)
    }

    /// Flushes everything to the disk.
    ///
    /// # Panics
    /// If data that the header announced was not written.
    pub fn finish(self) -> Result<()> {
        self.stream.finish()
    }
}
