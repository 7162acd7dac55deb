//! Texts: `.txt` files whole, `.jsonl` and `.json` files by a field of each document; compressed by gzip or not.

use crate::digest::hex;
use crate::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of a text that are enough for any calibration: some 8 million tokens. Tokenising the whole of a web corpus' file would take minutes.
pub const ENOUGH_BYTES: usize = 32 << 20;

/// How files begin that hold text in a form that is not read here.
const OTHER_FORMS: [(&[u8], &str); 4] = [
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"BZh", "compressed by bzip2"),
];

/// A text file and how to read it.
#[derive(Debug, Clone)]
pub struct TextSource {
    /// The file.
    pub path: PathBuf,
    /// The field of a document of a `.jsonl` or `.json` file that holds its text.
    pub field: String,
}

impl TextSource {
    /// The whole text; documents are joined by a blank line.
    pub fn read(&self) -> Result<String> {
        self.text(&bytes(&self.path, u64::MAX)?)
    }

    /// The text, or of a long one its first `most` bytes up to the end of a line; and whether it was cut so.
    pub fn read_beginning(&self, most: usize) -> Result<(String, bool)> {
        let mut found = bytes(&self.path, (most as u64).saturating_add(1))?;
        let is_cut = found.len() > most;
        if is_cut {
            let line_end = found[..most].iter().rposition(|&byte| byte == b'\n').map(|place| place + 1);
            // Not for the sake of a heading before a line that goes on and on.
            let line_end = line_end.filter(|&end| self.is_documents() || end > most / 2);
            if self.is_list(&found) || (self.is_documents() && line_end.is_none()) {
                // No document is whole yet.
                let mut text = self.read()?;
                let is_cut = text.len() > most;
                let end = (0..=most.min(text.len())).rev().find(|&place| text.is_char_boundary(place));
                text.truncate(end.unwrap_or(0));
                return Ok((text, is_cut));
            }
            // A single line ends between two characters.
            let character = (0..=most).rev().find(|&place| found[place] & 0b1100_0000 != 0b1000_0000);
            found.truncate(line_end.or(character).unwrap_or(most));
        }
        Ok((self.text(&found)?, is_cut))
    }

    /// Likewise; more of the file as long as that leaves little: documents may have much else in them, or one goes on and on.
    pub fn read_enough(&self, mut most: usize) -> Result<(String, bool)> {
        let enough = most / 4;
        loop {
            let (text, is_cut) = self.read_beginning(most)?;
            if !is_cut || text.len() >= enough {
                return Ok((text, is_cut));
            }
            most *= 4;
        }
    }

    /// Whether the file holds documents as JSON.
    fn is_documents(&self) -> bool {
        matches!(self.extension().as_deref(), Some("jsonl" | "ndjson" | "json"))
    }

    /// Whether a file with this content is one JSON list.
    fn is_list(&self, content: &[u8]) -> bool {
        let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
        self.extension().as_deref() == Some("json") && content.trim_ascii_start().starts_with(b"[")
    }

    fn text(&self, bytes: &[u8]) -> Result<String> {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let form = OTHER_FORMS.iter().find(|(begin, _)| bytes.starts_with(begin));
            let message = match form {
                Some((_, form)) => format!("is {form}; make a .txt, .jsonl or .jsonl.gz file of it first"),
                None => format!("is not UTF-8 text (byte {})", e.valid_up_to()),
            };
            Error::file(&self.path, message)
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = if self.is_list(bytes) {
            self.listed(text)?
        } else if self.is_documents() {
            self.line_by_line(text)?
        } else {
            text.to_string()
        };
        if text.trim().is_empty() {
            return Err(Error::file(&self.path, "holds no text"));
        }
        Ok(text)
    }

    /// The extension in lower case, before `.gz`.
    fn extension(&self) -> Option<String> {
        let of = |path: &Path| path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match of(&self.path) {
            Some(gz) if gz == "gz" => of(Path::new(self.path.file_stem()?)),
            other => other,
        }
    }

    fn line_by_line(&self, text: &str) -> Result<String> {
        let document = |(number, line): (usize, &str)| {
            let place = format!("line {}", number + 1);
            let wrong = |e: serde_json::Error| {
                let hint = if !e.is_eof() {
                    ""
                } else if number + 1 == text.trim_end().lines().count() {
                    // As by taking so many bytes of a longer file.
                    "; if the file was cut there, remove what is left of the line"
                } else {
                    "; every line must be a whole document, or the file one list of documents, named .json"
                };
                Error::file(&self.path, format!("{place}: is not JSON (column {}){hint}", e.column()))
            };
            let value = serde_json::from_str(line).map_err(wrong)?;
            self.document(&value, &place)
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        Ok(lines.map(document).collect::<Result<Vec<_>>>()?.join("\n\n"))
    }

    fn listed(&self, text: &str) -> Result<String> {
        let list: Vec<Value> = serde_json::from_str(text).map_err(|e| Error::file(&self.path, format!("is not JSON: {e}")))?;
        let document = |(index, value): (usize, &Value)| self.document(value, &format!("document {}", index + 1));
        Ok(list.iter().enumerate().map(document).collect::<Result<Vec<_>>>()?.join("\n\n"))
    }

    /// The text of a document: its field, or itself.
    fn document(&self, value: &Value, place: &str) -> Result<String> {
        let text = value.as_str().or_else(|| value.get(&self.field)?.as_str());
        let wrong = || Error::file(&self.path, format!("{place}: has no text field `{}`; name the field with --text-field", self.field));
        text.map(ToString::to_string).ok_or_else(wrong)
    }
}

/// The content of a file, at most so many bytes of it; that of a gzip file unpacked.
fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = || Error::io(path, "cannot read");
    let mut file = BufReader::new(File::open(path).map_err(failed())?);
    let is_gzip = file.fill_buf().map_err(failed())?.starts_with(b"\x1f\x8b");
    let mut content = Vec::new();
    let read =
        if is_gzip { MultiGzDecoder::new(file).take(most).read_to_end(&mut content) } else { file.take(most).read_to_end(&mut content) };
    let what = if is_gzip { "cannot unpack; is the file whole?" } else { "cannot read" };
    read.map_err(Error::io(path, what))?;
    Ok(content)
}

/// Identifies a tokenised text.
#[must_use]
pub fn fingerprint(tokens: &[u32]) -> String {
    let mut hash = Sha256::new();
    for part in tokens.chunks(1 << 14) {
        let bytes: Vec<u8> = part.iter().flat_map(|id| id.to_le_bytes()).collect();
        hash.update(bytes);
    }
    hex(hash)
}
