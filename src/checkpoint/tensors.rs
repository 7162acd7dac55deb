//! Tensors of a model folder, by memory map: `model.safetensors`, or the shards that `model.safetensors.index.json` names.

use super::files;
use crate::engine::{Dtype, HostTensor, SharedBytes};
use crate::error::{Error, Result};
use safetensors::{SafeTensors, tensor::TensorInfo};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// One mapped safetensors file. Its header is checked by the safetensors crate: offsets inside the file, no overlap, no hole.
pub struct TensorFile {
    path: PathBuf,
    map: Arc<memmap2::Mmap>,
    data_start: usize,
    tensors: HashMap<String, TensorInfo>,
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Maps a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        let map = files::map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| Error::file(path, format!("is not a complete safetensors file ({e}); is the download or copy finished?")))?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self {
            path: path.to_owned(),
            map: Arc::new(map),
            data_start: 8 + header,
            tensors,
            metadata: metadata.metadata().clone().unwrap_or_default(),
        })
    }

    /// Where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The `__metadata__` of the header.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Names in the order of their data.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_by_key(|&name| self.tensors[name].data_offsets);
        names
    }

    /// The header's entry.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor, which must exist.
    pub fn bytes(&self, name: &str) -> Result<SharedBytes> {
        let info = self.tensors.get(name).ok_or_else(|| Error::file(&self.path, format!("has no tensor `{name}`")))?;
        let (start, end) = info.data_offsets;
        Ok(SharedBytes::new(self.map.clone(), self.data_start + start..self.data_start + end))
    }

    /// A tensor's numbers in f64, which must be stored as f64.
    pub fn f64_values(&self, name: &str) -> Result<Vec<f64>> {
        let bytes = self.bytes(name)?;
        if self.tensors[name].dtype != safetensors::Dtype::F64 {
            return Err(Error::file(&self.path, format!("tensor `{name}` is not f64")));
        }
        Ok(bytes.as_ref().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }
}

/// All tensors of a model folder.
pub struct Tensors {
    files: Vec<TensorFile>,
    /// File of each tensor.
    places: BTreeMap<String, usize>,
    folder: PathBuf,
}

impl Tensors {
    /// Maps the weights of a model folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = folder.join("model.safetensors.index.json");
        let names = if folder.join("model.safetensors").exists() {
            vec!["model.safetensors".to_string()]
        } else if index.exists() {
            shard_names(&index)?
        } else {
            return Err(Error::file(folder, "has neither model.safetensors nor model.safetensors.index.json"));
        };
        let files: Vec<TensorFile> = names.iter().map(|name| TensorFile::open(&folder.join(name))).collect::<Result<_>>()?;
        let mut places = BTreeMap::new();
        for (place, file) in files.iter().enumerate() {
            for name in file.names() {
                if places.insert(name.to_string(), place).is_some() {
                    return Err(Error::file(file.path(), format!("holds tensor `{name}`, which another shard holds too")));
                }
            }
        }
        Ok(Self { files, places, folder: folder.to_owned() })
    }

    /// The files, in the order of their names.
    #[must_use]
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// Whether a tensor exists.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Bytes of all weight files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.map.len() as u64).sum()
    }

    /// A tensor of known shape: `[rows, columns]`, or `[columns]` where `rows` is 1.
    pub fn get(&self, name: &str, rows: usize, columns: usize) -> Result<HostTensor> {
        let place = self.places.get(name).ok_or_else(|| {
            Error::file(&self.folder, format!("tensor `{name}` is missing from the weights; config.json says the model has it"))
        })?;
        let file = &self.files[*place];
        let info = &file.tensors[name];
        let wrong = |message: String| Error::file(&file.path, format!("tensor `{name}` {message}"));
        let fits = match info.shape[..] {
            [length] => rows == 1 && length == columns,
            [a, b] => a == rows && b == columns,
            _ => false,
        };
        if !fits {
            return Err(wrong(format!("has shape {:?}; config.json asks for [{rows}, {columns}]", info.shape)));
        }
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => return Err(wrong(format!("is {other:?}; supported are F32, F16 and BF16 (quantised models cannot be pruned)"))),
        };
        Ok(HostTensor::new(file.bytes(name)?, dtype, rows, columns))
    }
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
