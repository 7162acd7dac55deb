//! The model's own tokenizer, `tokenizer.json`.

use super::files;
use crate::error::{Error, Result};
use crate::interrupt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often an interrupt is looked for while a text is tokenised.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(100);

/// A tokenizer with the path it came from.
pub struct Tokenizer {
    path: PathBuf,
    inner: Arc<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::file(
                &path,
                "is missing; text cannot be tokenised without it: load the tokenizer with transformers (AutoTokenizer) and save it with save_pretrained",
            ));
        }
        Self::parse(&path, &files::read_text(&path)?)
    }

    /// Reads the content of a `tokenizer.json` that lies in the file `path`.
    pub fn parse(path: &Path, json: &str) -> Result<Self> {
        let failed = |e: tokenizers::Error| Error::file(path, format!("cannot be read as a tokenizer: {e}"));
        // Merges that do not belong to the vocabulary can make the library panic.
        let parsed = std::panic::catch_unwind(|| json.parse::<tokenizers::Tokenizer>());
        let mut inner = parsed.map_err(|_| failed("it makes the tokenizers library panic".into()))?.map_err(failed)?;
        // Settings of some training, saved along: a text is taken whole and as it is.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        Ok(Self { path: path.to_owned(), inner: Arc::new(inner) })
    }

    /// Token ids of the whole text as one string, with the tokenizer's own special tokens.
    pub fn encode(&self, text: impl Into<String>) -> Result<Vec<u32>> {
        // A long text takes the library minutes, in which it cannot be told to stop: it works apart, and is left to itself then.
        let (sender, receiver) = mpsc::channel();
        let (inner, text) = (self.inner.clone(), text.into());
        std::thread::spawn(move || sender.send(inner.encode_fast(text, true).map(|encoding| encoding.get_ids().to_vec())));
        loop {
            interrupt::check()?;
            let failed = |reason: &dyn std::fmt::Display| Error::file(&self.path, format!("cannot tokenise the text: {reason}"));
            match receiver.recv_timeout(INTERRUPT_INTERVAL) {
                Ok(encoded) => return encoded.map_err(|e| failed(&e)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(failed(&"the tokenizer gave up")),
            }
        }
    }
}
