//! File operations whose errors carry the path.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

/// Configurations, indices, plans and tokenizer settings are far smaller; anything larger is not one.
const MAXIMUM_JSON_BYTES: u64 = 256 << 20;

/// Reads a whole UTF-8 text file.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path, "cannot read"))?;
    String::from_utf8(bytes).map_err(|e| Error::file(path, format!("is not UTF-8 text (byte {})", e.utf8_error().valid_up_to())))
}

/// Whether a file begins with these bytes; not if it cannot be read.
#[must_use]
pub fn begins_with(path: &Path, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut found)).is_ok() && found == bytes
}

/// Bytes of a file.
pub fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::io(path, "cannot open"))?.len())
}

/// The names of all that lies in a folder.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<Vec<_>>>()
    });
    listed.map_err(Error::io(folder, "cannot list"))
}

/// What to say if the disk of a folder has less room than the `bytes` that `what` takes; nothing if it has, or does not say.
#[must_use]
pub fn shortage(folder: &Path, bytes: u64, what: &str, remedy: &str) -> Option<String> {
    let free = fs4::available_space(folder).ok().filter(|&free| free < bytes)?;
    let [free, bytes] = [free, bytes].map(|bytes| format!("{} MB", bytes.div_ceil(1_000_000)));
    Some(format!("the disk of {} has {free} left, and {what} will take about {bytes}; {remedy}", folder.display()))
}

/// Reads and parses a JSON file.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let size = size(path)?;
    if size > MAXIMUM_JSON_BYTES {
        return Err(Error::file(path, format!("is {size} bytes long, too much for a JSON file of a model")));
    }
    serde_json::from_str(&read_text(path)?).map_err(|e| Error::file(path, format!("is not the JSON expected here: {e}")))
}

/// Writes a whole file, down to the disk.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io(path, "cannot create"))?;
    file.write_all(content.as_ref()).and_then(|()| file.sync_all()).map_err(Error::io(path, "cannot write"))
}

/// The folder that a file or folder lies in.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename in the folder of `path` last through a power failure, as far as the file system can.
pub fn sync_folder_of(path: &Path) {
    sync_folder(parent(path));
}

/// Makes the names of a folder's files last likewise. Not every shared folder can; the files themselves are written to the disk before.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) {
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::info!("{} cannot be made to last through a power failure: {error}", folder.display());
    }
}

/// The file system does it by itself; folders cannot be opened here.
#[cfg(not(unix))]
pub fn sync_folder(_: &Path) {}

/// Writes `value` as indented JSON.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, format!("cannot be written as JSON: {e}")))?;
    text.push('\n');
    write(path, text)
}

/// Memory-maps a file for reading.
pub fn map(path: &Path) -> Result<memmap2::Mmap> {
    let file = File::open(path).map_err(Error::io(path, "cannot open"))?;
    if path.is_dir() {
        return Err(Error::file(path, "is a folder; a file is wanted here"));
    }
    // SAFETY: the map is only read. As with every mapped file, it must not be truncated while the program runs.
    unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path, "cannot map"))
}
