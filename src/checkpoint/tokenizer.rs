//! The model's own tokenizer, `tokenizer.json`.

use crate::disk::files;
use crate::error::{Error, Result};
use crate::interrupt;
use rayon::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How often an interrupt is looked for while a text is tokenised.
const INTERRUPT_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of a text that are tokenised at once, by one thread: the library needs more than a hundred times as many.
const PART_BYTES: usize = 128 << 10;
/// Bytes before and behind a part that are tokenised along with it: what tokenizers do at the ends of a text happens there.
const MARGIN_BYTES: usize = 256;

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

    /// Token ids of the whole text as one string, with the tokenizer's own special tokens; computed part by part.
    pub fn encode(&self, text: impl Into<String>) -> Result<Vec<u32>> {
        // A long text takes the library minutes, in which it cannot be told to stop: it works apart, and is left to itself then.
        let (sender, receiver) = mpsc::channel();
        let (inner, text) = (self.inner.clone(), text.into());
        std::thread::spawn(move || sender.send(encode(&inner, &text)));
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

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
    let parts = parts(text);
    if parts.len() > 1
        && let Some([before, behind]) = special_tokens(tokenizer)?
    {
        let encoded: Vec<_> = parts.into_par_iter().map(|part| encode_part(tokenizer, text, part)).collect::<tokenizers::Result<_>>()?;
        if let Some(ids) = encoded.into_iter().collect::<Option<Vec<_>>>() {
            return Ok([before, ids.concat(), behind].concat());
        }
    }
    Ok(tokenizer.encode_fast(text, true)?.get_ids().to_vec())
}

/// What the tokenizer puts before and behind a text; none if it does something else.
fn special_tokens(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<Option<[Vec<u32>; 2]>> {
    let [with, without] = [true, false].map(|special| tokenizer.encode_fast("a", special));
    let (with, without) = (with?, without?);
    let (with, without) = (with.get_ids(), without.get_ids());
    let place = with.windows(without.len().max(1)).position(|ids| ids == without);
    Ok(place.map(|place| [with[..place].to_vec(), with[place + without.len()..].to_vec()]))
}

/// Cuts a text before lines that begin with something else than white space, or one space and something else; where lines go on and on, before a
/// space between two words: no tokenizer of these models has tokens across that.
fn parts(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let from = boundary(text, start + PART_BYTES);
        let begins = |end: &usize| text[*end..].strip_prefix(' ').unwrap_or(&text[*end..]).starts_with(|c: char| !c.is_whitespace());
        let is_word = |place: usize| {
            let [before, behind] = [text[..place].chars().next_back(), text[place + 1..].chars().next()];
            before.zip(behind).is_some_and(|(before, behind)| !before.is_whitespace() && !behind.is_whitespace())
        };
        let cut = |(place, found): (usize, &str)| match found {
            "\n" => Some(from + place + 1).filter(begins),
            _ => (place > PART_BYTES && is_word(from + place)).then_some(from + place),
        };
        let end = text[from..].match_indices(['\n', ' ']).find_map(cut).unwrap_or(text.len());
        parts.push(start..end);
        start = end;
    }
    parts
}

/// The next place between two characters.
fn boundary(text: &str, from: usize) -> usize {
    (from..text.len()).find(|&place| text.is_char_boundary(place)).unwrap_or(text.len())
}

/// Token ids of a part of a text; none if a token lies across its ends.
fn encode_part(tokenizer: &tokenizers::Tokenizer, text: &str, part: Range<usize>) -> tokenizers::Result<Option<Vec<u32>>> {
    interrupt::check()?;
    let from = boundary(text, part.start.saturating_sub(MARGIN_BYTES));
    let to = boundary(text, part.end + MARGIN_BYTES);
    let encoding = tokenizer.encode(&text[from..to], false)?;
    let mut ids = Vec::new();
    for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
        let (start, end) = (from + start, from + end);
        if [part.start, part.end].iter().any(|&cut| start < cut && cut < end) {
            return Ok(None);
        }
        // Some tokenizers say of white space that it is where it ends: then it counts to the next part, whose margin has it too.
        if part.contains(&start) || [start, part.end] == [text.len(); 2] {
            ids.push(id);
        }
    }
    Ok(Some(ids))
}
