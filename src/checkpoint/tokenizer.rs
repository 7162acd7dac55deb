//! The model's own tokenizer, `tokenizer.json`.

use super::files;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A tokenizer with the path it came from.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::file(&path, "is missing; text cannot be tokenised without it"));
        }
        Self::parse(&path, &files::read_text(&path)?)
    }

    /// Reads the content of a `tokenizer.json` that lies in the file `path`.
    pub fn parse(path: &Path, json: &str) -> Result<Self> {
        let inner = json.parse().map_err(|e| Error::file(path, format!("cannot be read as a tokenizer: {e}")))?;
        Ok(Self { path: path.to_owned(), inner })
    }

    /// Token ids of the whole text as one string, with the tokenizer's own special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(|e| Error::file(&self.path, format!("cannot tokenise the text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}
