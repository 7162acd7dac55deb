//! The GGUF format, version 3: metadata, then the tensors at aligned places. What the keys and names mean is not known here.
//!
//! Source: the format's specification in the ggml project, `docs/gguf.md`.

pub mod q8_0;
mod reader;
mod value;
mod writer;

pub use reader::{GgufFile, GgufTensor};
pub use value::{Metadata, Value};
pub use writer::{GgufHeader, GgufWriter};

use super::stored::Storage;
use crate::disk::files;
use crate::tensor::Dtype;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
/// Where tensors begin, unless a file says otherwise.
const ALIGNMENT: usize = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// The number of a storage in the tensors' headers.
pub(crate) const STORAGES: [(u32, Storage); 4] =
    [(0, Storage::Plain(Dtype::F32)), (1, Storage::Plain(Dtype::F16)), (8, Storage::Q8_0), (30, Storage::Plain(Dtype::Bf16))];

/// The GGUF file that a path means: itself, by its name or its first bytes, or the only one in a folder without a `config.json`.
#[must_use]
pub fn file_at(path: &Path) -> Option<PathBuf> {
    let named = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file();
    if path.is_file() {
        return (named(path) || files::begins_with(path, &MAGIC)).then(|| path.to_owned());
    }
    if path.join("config.json").exists() {
        return None;
    }
    let inside: Vec<PathBuf> = std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).filter(|path| named(path)).collect();
    if let [only] = inside.as_slice() { Some(only.clone()) } else { None }
}

/// Bytes of a tensor of `rows` rows of `columns` numbers; `None` if it cannot be stored so.
#[must_use]
pub fn stored_bytes(storage: &Storage, rows: usize, columns: usize) -> Option<usize> {
    match storage {
        Storage::Plain(dtype) => rows.checked_mul(columns)?.checked_mul(dtype.size()),
        Storage::Q8_0 => columns.is_multiple_of(q8_0::BLOCK).then(|| q8_0::bytes(columns))?.checked_mul(rows),
        Storage::Other(_) => None,
    }
}
