//! Writing a large file of known length from its beginning to its end, with the disk kept busy meanwhile.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Bytes after which the disk is asked to begin, so that the end of a large file does not wait for all of it.
const SYNC_BYTES: usize = 64 << 20;

/// A file being written.
pub struct StreamWriter {
    path: PathBuf,
    file: BufWriter<File>,
    missing: usize,
    /// Bytes since the disk was last asked.
    unsynced: usize,
    /// For files large enough to need it.
    flusher: Option<Flusher>,
}

impl StreamWriter {
    /// Creates a file that will be `length` bytes long.
    pub fn create(path: &Path, length: usize) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(path, "cannot create"))?;
        let flusher = (length > SYNC_BYTES).then(|| Flusher::start(&file)).transpose().map_err(Error::io(path, "cannot write"))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { path: path.to_owned(), file, missing: length, unsynced: 0, flusher })
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// If they are more than were announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.missing = self.missing.checked_sub(bytes.len()).expect("more data than the header announced");
        self.file.write_all(bytes).map_err(Error::io(&self.path, "cannot write"))?;
        self.unsynced += bytes.len();
        if let Some(flusher) = self.flusher.as_ref().filter(|_| self.unsynced >= SYNC_BYTES) {
            flusher.ask();
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Flushes everything to the disk.
    ///
    /// # Panics
    /// If bytes that were announced were not written.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.missing, 0, "less data than the header announced");
        let path = self.path;
        let file = self.file.into_inner().map_err(|e| Error::io(&path, "cannot write")(e.into_error()))?;
        if let Some(mut flusher) = self.flusher {
            flusher.stop().map_err(Error::io(&path, "cannot write"))?;
        }
        file.sync_all().map_err(Error::io(&path, "cannot write"))
    }
}

/// A thread that flushes a file to the disk whenever it is asked, while more is being written. It ends with its owner, so that a file
/// given up can be removed at once.
struct Flusher {
    ask: Option<Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Flusher {
    fn start(file: &File) -> std::io::Result<Self> {
        let file = file.try_clone()?;
        let (ask, asked) = channel();
        let thread = std::thread::spawn(move || {
            while asked.recv().is_ok() {
                // One flush answers all that was asked meanwhile.
                while asked.try_recv().is_ok() {}
                file.sync_data()?;
            }
            Ok(())
        });
        Ok(Self { ask: Some(ask), thread: Some(thread) })
    }

    fn ask(&self) {
        if let Some(ask) = &self.ask {
            // If the thread has ended, it has failed; `stop` tells.
            let _ = ask.send(());
        }
    }

    /// Waits for the last flush; fails if one of them did.
    fn stop(&mut self) -> std::io::Result<()> {
        self.ask = None;
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("the thread does not panic"))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        // The file was finished, and `stop` has told, or it is given up.
        let _ = self.stop();
    }
}
