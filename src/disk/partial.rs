//! Output in the making: a hidden folder beside its place, locked while its program lives. What a killed one has left there is removed by
//! the next that makes the same output; while one is at work, no other begins.

use super::files;
use crate::error::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Name of the file that is locked, and under which it is made.
const LOCK: &str = ".in-the-making";
const NEW_LOCK: &str = ".in-the-making.new";

/// A folder in the making. Dropped, it leaves nothing behind.
pub struct Partial {
    // Dropped before the folder: some systems remove no file that is open.
    lock: Option<File>,
    folder: TempDir,
}

impl Partial {
    /// Starts a folder for `output`, which lies in `parent`; fails while another run makes the same output.
    pub fn create(output: &Path, parent: &Path) -> Result<Self> {
        let prefix = prefix(output);
        clear(parent, &prefix).map_err(|other| {
            Error::file(output, format!("is being made by another run, in {}; wait for it, or choose another --output", other.display()))
        })?;
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(Error::io(parent, "cannot create a folder in"))?;
        // Where a file system knows no locks, there is none, and what is left is not taken for abandoned.
        let lock = lock(folder.path()).inspect_err(|_| unlock(folder.path())).ok();
        Ok(Self { lock, folder })
    }

    /// Where files are written.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder it lies in.
    #[must_use]
    pub fn parent(&self) -> &Path {
        files::parent(self.path())
    }

    /// Says that it is complete: from now on nobody takes it for abandoned.
    pub fn complete(&mut self) {
        // In this order: between them, a file that nobody holds would say that the folder is abandoned.
        unlock(self.path());
        self.lock = None;
    }

    /// Leaves the folder where it is, for good.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.complete();
        self.folder.keep()
    }
}

/// It tells the user which output a folder belongs to.
fn prefix(output: &Path) -> String {
    format!(".{}.partial-", output.file_name().unwrap_or_default().to_string_lossy())
}

/// The name of the output that a hidden folder of this name is the making of, if it is.
#[must_use]
pub fn output_in_the_making(folder: &str) -> Option<&str> {
    Some(folder.strip_prefix('.')?.split_once(".partial-")?.0)
}

/// Makes the file that is locked; it has its name only once it is.
fn lock(folder: &Path) -> std::io::Result<File> {
    let new = folder.join(NEW_LOCK);
    let file = File::create(&new)?;
    file.try_lock()?;
    fs::rename(&new, folder.join(LOCK))?;
    Ok(file)
}

fn unlock(folder: &Path) {
    for name in [LOCK, NEW_LOCK] {
        // It may never have been there.
        let _ = fs::remove_file(folder.join(name));
    }
}

/// Removes folders whose file nobody holds locked any more. What cannot be removed stays: it is in nobody's way. Fails with a folder that is
/// still in the making: only one of both could take the place in the end.
fn clear(parent: &Path, prefix: &str) -> std::result::Result<(), PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for folder in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()) {
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) if fs::remove_dir_all(&folder).is_ok() => tracing::info!("removed {}, which a killed run had left", folder.display()),
            Err(TryLockError::WouldBlock) => return Err(folder),
            // Not removed, or a file system that knows no locks.
            _ => {}
        }
    }
    Ok(())
}
