//! All tensors of a model by their checkpoint names, wherever they lie: one or several mapped files.

use super::safetensors::TensorFile;
use super::stored::StoredTensor;
use crate::disk::files;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

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
        // A link to nowhere is there, and opening it says what is wrong.
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        let names = if is_there(&folder.join("model.safetensors")) {
            vec!["model.safetensors".to_string()]
        } else if is_there(&index) {
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
                return Err(entry.error(format_args!("has shape {:?}; the configuration asks for {rows} rows", entry.shape)));
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

    /// With what `change` changes of how each is read.
    #[must_use]
    pub fn changed(mut self, change: impl FnMut(&mut StoredTensor)) -> Self {
        self.entries.iter_mut().for_each(change);
        self
    }

    /// All but one.
    pub fn without(self, name: &str) -> Result<Self> {
        let entries = self.entries.into_iter().filter(|entry| entry.name != name).collect();
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

    /// All tensors in the order of their names.
    pub fn by_name(&self) -> impl Iterator<Item = &StoredTensor> {
        self.places.values().map(|&place| &self.entries[place])
    }

    /// A tensor of known shape.
    ///
    /// # Errors
    /// If it is missing, has another shape, or cannot be computed with.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&StoredTensor> {
        let place = self.places.get(name).ok_or_else(|| {
            Error::file(&self.source, format!("tensor `{name}` is missing from the weights; the configuration says the model has it"))
        })?;
        let entry = &self.entries[*place];
        if entry.shape != shape {
            return Err(entry.error(format_args!("has shape {:?}; the configuration asks for {shape:?}", entry.shape)));
        }
        entry.read_rows(0..0)?;
        Ok(entry)
    }
}

/// Says what a folder has instead of weights that are read here.
fn no_weights(folder: &Path) -> Error {
    let names = files::names(folder).unwrap_or_default().into_iter();
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
