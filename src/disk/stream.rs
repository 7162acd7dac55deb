//! Writing a large file of known length from its beginning to its end: what comes next is made while the system takes in what was made
//! before, and the disk writes what it took in before that.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Bytes handed over, and written, at a time. Larger writes are no faster, and on some systems many times slower: their pages come in
/// large pieces, which are harder to find.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks on their way to the system.
const BLOCKS: usize = 16;
/// Bytes after which the disk is asked to begin, so that the end of a large file does not wait for all of it.
const SYNC_BYTES: usize = 64 << 20;

/// A file being written.
pub struct StreamWriter {
    path: PathBuf,
    missing: usize,
    block: Vec<u8>,
    /// Full blocks go to the thread that writes, and come back empty. None once the file is given up or complete.
    full: Option<SyncSender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl StreamWriter {
    /// Creates a file that will be `length` bytes long.
    pub fn create(path: &Path, length: usize) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(path, "cannot create"))?;
        let (full, blocks) = sync_channel(BLOCKS);
        let (returned, empty) = channel();
        let thread = std::thread::spawn(move || write_blocks(file, length, &blocks, &returned));
        Ok(Self { path: path.to_owned(), missing: length, block: Vec::new(), full: Some(full), empty, thread: Some(thread) })
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// If they are more than were announced.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.missing = self.missing.checked_sub(bytes.len()).expect("more data than the header announced");
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(part);
            bytes = rest;
            if self.block.len() == BLOCK_BYTES {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<()> {
        let next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK_BYTES));
        let block = std::mem::replace(&mut self.block, next);
        match self.full.as_ref().map(|full| full.send(block)) {
            Some(Ok(())) => Ok(()),
            // The thread has ended early, and knows why.
            _ => self.join(),
        }
    }

    /// Waits for the thread; fails if it did.
    fn join(&mut self) -> Result<()> {
        self.full = None;
        let result = self.thread.take().map_or(Ok(()), |thread| thread.join().expect("the thread does not panic"));
        result.map_err(Error::io(&self.path, "cannot write"))
    }

    /// Flushes everything to the disk.
    ///
    /// # Panics
    /// If bytes that were announced were not written.
    pub fn finish(mut self) -> Result<()> {
        assert_eq!(self.missing, 0, "less data than the header announced");
        self.hand_over()?;
        self.join()
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        // Complete, and `finish` has told, or given up: it can be removed at once.
        let _ = self.join();
    }
}

/// Writes all blocks that come, down to the disk.
fn write_blocks(mut file: File, length: usize, blocks: &Receiver<Vec<u8>>, returned: &Sender<Vec<u8>>) -> std::io::Result<()> {
    let mut flusher = (length > SYNC_BYTES).then(|| Flusher::start(&file)).transpose()?;
    let mut unsynced = 0;
    for mut block in blocks {
        file.write_all(&block)?;
        unsynced += block.len();
        if let Some(flusher) = flusher.as_ref().filter(|_| unsynced >= SYNC_BYTES) {
            flusher.ask();
            unsynced = 0;
        }
        block.clear();
        // The writer may be done with it.
        let _ = returned.send(block);
    }
    if let Some(flusher) = &mut flusher {
        flusher.stop()?;
    }
    file.sync_all()
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
