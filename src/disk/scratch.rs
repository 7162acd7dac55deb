//! Numbers that do not fit into memory and are needed again: a temporary file without a name, mapped part by part.

use super::files;
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor, SharedBytes};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Parts begin at multiples of this, which every system can map.
const ALIGNMENT: u64 = 1 << 16;

/// Where temporary files lie: where `TMPDIR` says, else on a disk. The usual folder is memory on many systems, and what goes into a file is
/// what has no place there.
#[must_use]
pub fn temporary_folder() -> PathBuf {
    const ON_DISK: &str = "/var/tmp";
    let usual = std::env::temp_dir();
    if cfg!(unix) && std::env::var_os("TMPDIR").is_none() && Path::new(ON_DISK).is_dir() { ON_DISK.into() } else { usual }
}

/// What to say if temporary files of so many bytes find too little room.
#[must_use]
pub fn temporary_shortage(bytes: u64, what: &str) -> Option<String> {
    files::shortage(&temporary_folder(), bytes, what, "point TMPDIR at another disk")
}

/// A temporary file without a name, which vanishes with the program.
pub fn temporary_file() -> Result<File> {
    let folder = temporary_folder();
    tempfile::tempfile_in(&folder)
        .or_else(|_| tempfile::tempfile())
        .map_err(Error::io(&folder, "cannot create a temporary file there; point TMPDIR at a folder that can be written to"))
}

/// A growing temporary file.
pub struct Scratch {
    file: File,
    length: u64,
}

/// A mapped part.
struct Part(Mmap);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Scratch {
    /// An empty file, which vanishes with the program.
    pub fn new() -> Result<Self> {
        Ok(Self { file: temporary_file()?, length: 0 })
    }

    /// Writes a tensor and gives it back from the file.
    pub fn keep(&mut self, bytes: &[u8], dtype: Dtype, rows: usize, columns: usize) -> Result<HostTensor> {
        let folder = temporary_folder();
        let padding = self.length.next_multiple_of(ALIGNMENT) - self.length;
        let failed = || Error::io(&folder, "no room for intermediate results; point TMPDIR at a disk with more");
        // Written first, mapped then: a full disk is an error here, and would end the program in a map.
        self.file.write_all(&vec![0; padding as usize]).map_err(failed())?;
        self.file.write_all(bytes).map_err(failed())?;
        let start = self.length + padding;
        self.length = start + bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(HostTensor::owning(Vec::new(), dtype, rows, columns));
        }
        // SAFETY: the file has no name, is this program's alone, and what was written is not changed any more.
        let map = unsafe { MmapOptions::new().offset(start).len(bytes.len()).map(&self.file) };
        let part = Part(map.map_err(Error::io(&folder, "cannot map intermediate results in"))?);
        Ok(HostTensor::new(SharedBytes::new(Arc::new(part), 0..bytes.len()), dtype, rows, columns))
    }
}
