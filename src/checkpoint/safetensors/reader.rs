//! One safetensors file, by memory map.

use crate::checkpoint::stored::{Storage, StoredTensor};
use crate::disk::files;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, SharedBytes};
use ::safetensors::{SafeTensors, tensor::TensorInfo};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
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
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            let pointer = map.starts_with(b"version https://git-lfs");
            let what = if pointer {
                "is a pointer of Git LFS and not the file itself; `git lfs pull` fetches that".to_string()
            } else {
                format!("is no safetensors file, or not a complete one ({e}); is the download or copy finished?")
            };
            Error::file(path, what)
        })?;
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

    /// Bytes of the whole file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.map.len() as u64
    }

    /// All tensors, in the order of their data.
    pub fn stored_tensors(&self) -> Result<Vec<StoredTensor>> {
        let path: Arc<Path> = self.path.as_path().into();
        let stored = |name: &str| -> Result<StoredTensor> {
            let info = &self.tensors[name];
            let storage = match info.dtype {
                ::safetensors::Dtype::F32 => Storage::Plain(Dtype::F32),
                ::safetensors::Dtype::F16 => Storage::Plain(Dtype::F16),
                ::safetensors::Dtype::BF16 => Storage::Plain(Dtype::Bf16),
                other => Storage::Other(format!("{other:?}")),
            };
            let (name, shape, file) = (name.to_string(), info.shape.clone(), path.clone());
            Ok(StoredTensor { bytes: self.bytes(&name)?, name, storage, shape, heads: None, scale: 1.0, file })
        };
        self.names().into_iter().map(stored).collect()
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
        if self.tensors[name].dtype != ::safetensors::Dtype::F64 {
            return Err(Error::file(&self.path, format!("tensor `{name}` is not f64")));
        }
        Ok(bytes.as_ref().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }
}
