//! The model's own tokenizer, `tokenizer.json`.

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
        let inner =
            tokenizers::Tokenizer::from_file(&path).map_err(|e| Error::file(&path, format!("cannot be read as a tokenizer: {e}")))?;
        Ok(Self { path, inner })
    }

    /// Token ids of the whole text as one string, with the tokenizer's own special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(|e| Error::file(&self.path, format!("cannot tokenise the text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}
