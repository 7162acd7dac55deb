//! `config.json` with typed access and errors that name the file and the key.

use crate::disk::files;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Sizes above this are not those of a language model, and would overflow products of sizes.
const MAXIMUM_SIZE: u64 = 1 << 24;

/// A JSON object read from `path`.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

/// What is wrong with a folder without a `config.json`, and what to do.
fn without(folder: &Path, names: &[String]) -> &'static str {
    let holds = |end: &str| names.iter().any(|name| name.ends_with(end));
    if folder.join("snapshots").is_dir() {
        "is the cache entry of a download; give the folder in its `snapshots` folder"
    } else if holds("adapter_config.json") {
        "has no config.json; it holds an adapter: merge it into its model and give that model's folder"
    } else if holds(".gguf") {
        "has no config.json; it holds several GGUF files: name one of them"
    } else {
        "has no config.json; give the folder of a model as Hugging Face distributes it"
    }
}

impl Config {
    /// Reads `config.json` of a model folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.exists() {
            return Err(Error::file(folder, without(folder, &files::names(folder)?)));
        }
        Ok(Self { values: files::read_json(&path)?, path })
    }

    /// A configuration that was not read from a file; `path` is for messages.
    #[must_use]
    pub fn new(path: PathBuf, values: Map<String, Value>) -> Self {
        Self { path, values }
    }

    /// Where it was read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys as they were read.
    #[must_use]
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// An error about this file.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, message.to_string())
    }

    /// The value of `key`, unless missing or null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// A size: an integer from 1 to 2^24.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.error(format_args!("`{key}` is missing")))
    }

    /// A size that may be missing or null.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=MAXIMUM_SIZE) => Ok(Some(size as usize)),
            _ => Err(self.error(format_args!("`{key}` is {value}; it must be an integer from 1 to {MAXIMUM_SIZE}"))),
        }
    }

    /// A flag; `default` when missing.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(format_args!("`{key}` is {value}; it must be true or false")))
    }

    /// A positive number that may be missing.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.error(format_args!("`{key}` is {value}; it must be a positive number"))),
        }
    }

    /// A positive number.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.optional_number(key)?.ok_or_else(|| self.error(format_args!("`{key}` is missing")))
    }

    /// A list of positive numbers.
    pub fn positive_numbers(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.get(key).and_then(Value::as_array);
        let numbers = list.and_then(|list| list.iter().map(|v| v.as_f64().filter(|&n| n > 0.0 && n.is_finite())).collect());
        numbers.ok_or_else(|| self.error(format_args!("`{key}` must be a list of positive numbers")))
    }

    /// A text that may be missing.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.error(format_args!("`{key}` is {value}; it must be a text")))
    }

    /// An object that may be missing, with the same access.
    pub fn optional_object(&self, key: &str) -> Result<Option<Self>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.error(format_args!("`{key}` must be an object")))?;
        Ok(Some(Self { path: self.path.clone(), values: object.clone() }))
    }
}
