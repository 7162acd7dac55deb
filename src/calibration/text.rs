//! Texts: `.txt` files whole, `.jsonl` files by a field of each line.

use crate::checkpoint::files;
use crate::error::{Error, Result};
use crate::model::hex;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// A text file and how to read it.
#[derive(Debug, Clone)]
pub struct TextSource {
    /// The file.
    pub path: PathBuf,
    /// The field of a `.jsonl` line that holds the document.
    pub field: String,
}

/// The whole text; documents of a `.jsonl` file are joined by a blank line.
pub fn read_text(source: &TextSource) -> Result<String> {
    let text = files::read_text(&source.path)?;
    let is_jsonl = source.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
    let text = if is_jsonl { join_documents(source, &text)? } else { text };
    if text.trim().is_empty() {
        return Err(Error::file(&source.path, "holds no text"));
    }
    Ok(text)
}

fn join_documents(source: &TextSource, lines: &str) -> Result<String> {
    let field = &source.field;
    let mut documents = Vec::new();
    for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |message: String| Error::file(&source.path, format!("line {}: {message}", number + 1));
        let value: serde_json::Value = serde_json::from_str(line).map_err(|e| wrong(format!("is not JSON: {e}")))?;
        match value.get(field).and_then(|v| v.as_str()) {
            Some(document) => documents.push(document.to_string()),
            None => return Err(wrong(format!("has no text field `{field}`; name the field with --text-field"))),
        }
    }
    Ok(documents.join("\n\n"))
}

/// Identifies a tokenised text.
#[must_use]
pub fn fingerprint(tokens: &[u32]) -> String {
    let mut hash = Sha256::new();
    for part in tokens.chunks(1 << 14) {
        let bytes: Vec<u8> = part.iter().flat_map(|id| id.to_le_bytes()).collect();
        hash.update(bytes);
    }
    hex(&hash.finalize())
}
