//! All tensors of a model by their checkpoint names, wherever they lie: one or several mapped files, in a checkpoint's number formats
//! or in the forms that GGUF files have.

use super::files;
use super::gguf::q8_0;
use super::safetensors::TensorFile;
use crate::engine::{Dtype, HostTensor, SharedBytes};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
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
            Self::Plain(dtype) => dtype.safetensors_name(),
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
    /// Channels of a head, if the rows of each head are stored as pairs of rotary embedding, first and second half in turns, instead of
    /// one half after the other.
    pub interleaved: Option<usize>,
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

    /// Rows of a matrix; 1 for a vector.
    #[must_use]
    pub fn rows(&self) -> usize {
        if self.shape.len() == 1 { 1 } else { self.shape[0] }
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

    /// Its numbers in a checkpoint's format and order: the map's own bytes where they are stored so, else a copy.
    ///
    /// # Errors
    /// If its numbers are stored in a way that is not computed with.
    pub fn read(&self) -> Result<HostTensor> {
        let stored = self.read_rows(0..self.rows())?;
        let Some(head_dim) = self.interleaved else { return Ok(stored) };
        // A bias is a row of heads: its channels are moved as a matrix' rows are.
        let row_bytes = if self.shape.len() == 1 { stored.dtype.size() } else { stored.row_bytes() };
        let bytes = deinterleave(stored.bytes.as_ref(), head_dim, row_bytes);
        Ok(HostTensor::owning(bytes, stored.dtype, stored.rows, stored.columns))
    }

    /// Fails if one of its numbers is NaN or infinite. Of quantised blocks nothing is said.
    pub fn check_finite(&self) -> Result<()> {
        if !matches!(self.storage, Storage::Plain(_)) || self.read_rows(0..self.rows())?.is_finite() {
            return Ok(());
        }
        Err(Error::NotFinite(format!(
            "tensor `{}` holds NaN or infinity; the checkpoint is damaged or was saved after training diverged",
            self.name
        )))
    }

    /// Some of its rows, which must not be interleaved.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<HostTensor> {
        let columns = self.columns();
        match &self.storage {
            Storage::Plain(dtype) => {
                let row_bytes = columns * dtype.size();
                Ok(HostTensor::new(self.bytes.slice(rows.start * row_bytes..rows.end * row_bytes), *dtype, rows.len(), columns))
            }
            Storage::Q8_0 => {
                let row_bytes = q8_0::bytes(columns);
                let mut values = vec![0.0f32; rows.len() * columns];
                q8_0::decode(&self.bytes.as_ref()[rows.start * row_bytes..rows.end * row_bytes], &mut values);
                Ok(HostTensor::from_f32(&values, columns))
            }
            Storage::Other(name) => {
                Err(self.error(format_args!("is {name}; supported are F32, F16 and BF16 (other quantised models cannot be pruned)")))
            }
        }
    }
}

/// Rows `2i` and `2i + 1` of each head back to rows `i` and `head_dim / 2 + i`.
fn deinterleave(stored: &[u8], head_dim: usize, row_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(stored.len());
    for head in stored.chunks_exact(head_dim * row_bytes) {
        for half in 0..2 {
            head.chunks_exact(row_bytes).skip(half).step_by(2).for_each(|row| bytes.extend_from_slice(row));
        }
    }
    bytes
}

/// All tensors of a model.
pub struct Tensors {
    /// In the order of their data.
    entries: Vec<StoredTensor>,
    places: BTreeMap<String, usize>,
    file_bytes: u64,
    source: PathBuf,
}

impl Tensors {
    /// Maps the weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = folder.join("model.safetensors.index.json");
        let names = if folder.join("model.safetensors").exists() {
            vec!["model.safetensors".to_string()]
        } else if index.exists() {
            shard_names(&index)?
        } else {
            return Err(no_weights(folder));
        };
        let (mut entries, mut file_bytes) = (Vec::new(), 0);
        for name in names {
            let file = TensorFile::open(&folder.join(name))?;
            file_bytes += file.length();
            entries.extend(file.stored_tensors()?);
        }
        Self::new(folder, entries, file_bytes)
    }

    /// Tensors in the order of their data; `source` is the folder or file they come from, whose weight files hold `file_bytes` bytes.
    pub fn new(source: &Path, entries: Vec<StoredTensor>, file_bytes: u64) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (place, entry) in entries.iter().enumerate() {
            if places.insert(entry.name.clone(), place).is_some() {
                return Err(entry.error("is there twice"));
            }
        }
        Ok(Self { entries, places, file_bytes, source: source.to_owned() })
    }

    /// Takes matrices apart that hold the rows of several: `parts` gives, by a matrix' name, the names of what it holds and their rows.
    pub fn split(self, mut parts: impl FnMut(&str) -> Option<Vec<(String, usize)>>) -> Result<Self> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            let Some(parts) = parts(&entry.name) else {
                entries.push(entry);
                continue;
            };
            let rows = parts.iter().map(|part| part.1).sum::<usize>();
            if entry.shape.len() != 2 || entry.rows() != rows {
                return Err(entry.error(format_args!("has shape {:?}; config.json asks for {rows} rows", entry.shape)));
            }
            let row_bytes = entry.bytes.as_ref().len() / rows;
            let mut start = 0;
            for (name, rows) in parts {
                let bytes = entry.bytes.slice(start * row_bytes..(start + rows) * row_bytes);
                entries.push(StoredTensor { name, shape: vec![rows, entry.columns()], bytes, ..entry.clone() });
                start += rows;
            }
        }
        Self::new(&self.source, entries, self.file_bytes)
    }

    /// All tensors, in the order of their data.
    #[must_use]
    pub fn entries(&self) -> &[StoredTensor] {
        &self.entries
    }

    /// Bytes of all weight files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// A tensor of known shape: `[rows, columns]`, or `[columns]` where `rows` is 1.
    ///
    /// # Errors
    /// If it is missing, has another shape, or cannot be computed with.
    pub fn get(&self, name: &str, rows: usize, columns: usize) -> Result<&StoredTensor> {
        let place = self.places.get(name).ok_or_else(|| {
            Error::file(&self.source, format!("tensor `{name}` is missing from the weights; config.json says the model has it"))
        })?;
        let entry = &self.entries[*place];
        let fits = match entry.shape[..] {
            [length] => rows == 1 && length == columns,
            [a, b] => a == rows && b == columns,
            _ => false,
        };
        if !fits {
            return Err(entry.error(format_args!("has shape {:?}; config.json asks for [{rows}, {columns}]", entry.shape)));
        }
        entry.read_rows(0..0)?;
        Ok(entry)
    }
}

/// Says what a folder has instead of weights that are read here.
fn no_weights(folder: &Path) -> Error {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let other = names.filter(|name| [".bin", ".pt", ".pth", ".safetensors"].iter().any(|end| name.ends_with(end))).min();
    let instead = match other {
        Some(name) if name.ends_with(".safetensors") => format!(" (it has {name}; another name or an index is expected)"),
        Some(name) => format!(
            " (it has {name}, which is not read: load the model with transformers and save it again, which writes safetensors files)"
        ),
        None => String::new(),
    };
    Error::file(folder, format!("has neither model.safetensors nor model.safetensors.index.json{instead}"))
}

/// The shard files an index names: plain names inside its folder.
fn shard_names(index: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let parsed: Index = files::read_json(index)?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    for name in &names {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::file(index, format!("names the shard `{name}`, which is not a plain file name inside the folder")));
        }
    }
    if names.is_empty() {
        return Err(Error::file(index, "names no shards"));
    }
    Ok(names.into_iter().collect())
}
