//! What interrupted work leaves beside its output, so that the next call goes on from the last save.
//!
//! A folder `OUTPUT.resume`: a folder of files for each save, of which only the last stays; one of layers' files that all later saves need;
//! a small file that names the last save and the work it belongs to, written last; and one that is locked while a run uses the folder.
//! Nothing else is touched there.

mod lock;

use crate::disk::{OutputFile, files, output_in_the_making, settled};
use crate::error::{Error, Result};
use crate::progress::Progress;
use lock::FolderLock;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Saving may take this share of the time since the last save: one part in ten.
const COST_SHARE: u32 = 10;

/// Names in the folder, or how they begin.
const POINTER: &str = "state.json";
const SAVE: &str = "save-";
const LAYERS: &str = "layers";

/// See the module's text.
pub struct ResumeState {
    folder: PathBuf,
    /// Shortest time between two saves.
    interval: Duration,
    last: Cell<(Instant, Duration)>,
    /// Whether another run's progress may be dropped.
    force: bool,
    /// Whether what the folder holds is this run's: loaded or saved by it. The first save replaces anything else.
    own: Cell<bool>,
    /// Whether it is of no more use: damaged, or another run's that may be dropped.
    useless: Cell<bool>,
    loaded: Cell<bool>,
    /// Number of the last save.
    saves: Cell<usize>,
    lock: FolderLock,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Pointer {
    /// Number of the save.
    save: usize,
    /// What the work is: model, text, options.
    identity: Value,
    /// Names and sizes of the save's files.
    files: BTreeMap<String, u64>,
}

impl ResumeState {
    /// The state that belongs to an output. Saves come at least `interval` apart, and far enough to cost little; without an interval, one
    /// comes every time. With `force`, the progress of an interrupted run that was another one is dropped.
    #[must_use]
    pub fn beside(output: &Path, interval: Duration, force: bool) -> Self {
        let output = settled(output);
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".resume");
        let last = Cell::new((Instant::now(), Duration::ZERO));
        Self {
            folder: output.with_file_name(name),
            interval,
            last,
            force,
            own: Cell::new(false),
            useless: Cell::new(false),
            loaded: Cell::new(false),
            saves: Cell::new(0),
            lock: FolderLock::default(),
        }
    }

    fn is_ours(&self) -> bool {
        self.lock.is_ours(&self.folder)
    }

    /// Whether the next run goes on from what this one has saved or loaded.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.own.get() && self.pointer().exists()
    }

    /// Whether this run goes on from an earlier one.
    #[must_use]
    pub fn went_on(&self) -> bool {
        self.loaded.get()
    }

    /// A layer's file of some kind that all later saves need.
    #[must_use]
    pub fn of_layer(&self, kind: &str, layer: usize) -> PathBuf {
        self.folder.join(LAYERS).join(format!("{kind}-{layer}.safetensors"))
    }

    /// Writes such a file, unless it is there.
    pub fn keep_layer(&self, kind: &str, layer: usize, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.of_layer(kind, layer);
        if path.exists() {
            return Ok(());
        }
        let folder = self.folder.join(LAYERS);
        fs::create_dir_all(&folder).map_err(Error::io(&folder, "cannot create"))?;
        // What has the name is taken for complete.
        let output = OutputFile::create(&path, &[], true)?;
        write(&output.path())?;
        output.commit()
    }

    /// Removes layers' files that are of no more use, or that a save which was never completed may have left: they are made anew.
    pub fn forget_layers(&self, kind: &str, layers: Range<usize>) {
        for layer in layers {
            // It may never have been written.
            let _ = fs::remove_file(self.of_layer(kind, layer));
        }
    }

    fn pointer(&self) -> PathBuf {
        self.folder.join(POINTER)
    }

    fn save_folder(&self, save: usize) -> PathBuf {
        self.folder.join(format!("{SAVE}{save}"))
    }

    /// What `read` makes of the folder of the last save, if it is complete.
    ///
    /// # Errors
    /// If it belongs to other work than `identity`, or cannot be read: without force, hours of work are not dropped.
    pub fn load<T>(&self, identity: &Value, progress: &dyn Progress, read: impl FnOnce(&Path) -> Result<T>) -> Result<Option<T>> {
        if !self.pointer().exists() || !self.is_ours() {
            return Ok(None);
        }
        // With or without force, what is not this program's is not dropped.
        let pointer: Pointer = files::read_json(&self.pointer()).map_err(|error| {
            Error::file(&self.folder, format!("holds no progress of this program ({error}); move it away, or choose another --output"))
        })?;
        if pointer.identity != complete(identity) && !self.force {
            return Err(self.of_another());
        }
        let loaded = || -> Result<T> {
            if pointer.identity != complete(identity) {
                return Err(Error::file(&self.folder, "was left by another run"));
            }
            let folder = self.save_folder(pointer.save);
            if !folder.is_dir() || sizes(&folder)? != pointer.files {
                return Err(Error::file(&folder, "is incomplete"));
            }
            read(&folder)
        };
        match loaded() {
            Ok(state) => {
                self.own.set(true);
                self.loaded.set(true);
                self.saves.set(pointer.save);
                Ok(Some(state))
            }
            // What cannot be read now may be read another time.
            Err(error @ Error::Io { .. }) if !self.force => Err(error),
            Err(error) => {
                // It goes with the first save, or at the end.
                self.own.set(false);
                self.useless.set(true);
                progress.note(&format!("starting from the first layer, as an interrupted run is not continued: {error}"));
                Ok(None)
            }
        }
    }

    fn of_another(&self) -> Error {
        Error::file(
            &self.folder,
            "holds the progress of an interrupted run with another model (or files that were changed since), text, precision or options, or by another version of this program; \
             run that one again to go on from it, give --force to drop it, or choose another --output",
        )
    }

    /// For work that saves nothing.
    ///
    /// # Errors
    /// If an interrupted run has left its progress, which is not dropped without force.
    pub fn expect_none(&self) -> Result<()> {
        if self.pointer().exists() && !self.force {
            return Err(self.of_another());
        }
        self.useless.set(true);
        Ok(())
    }

    /// Saves, if the last save is long enough ago for its cost: `write` puts files into the folder it is given. A failure to save is
    /// told, but does not stop the run. Whether it has saved.
    pub fn save_if_due(&self, identity: &Value, write: impl FnOnce(&Path) -> Result<()>) -> bool {
        let (last, cost) = self.last.get();
        if !self.interval.is_zero() && last.elapsed() < self.interval.max(cost * COST_SHARE) {
            return false;
        }
        if !self.is_ours() {
            return false;
        }
        let begin = Instant::now();
        let saved = self.save(identity, write);
        if let Err(error) = &saved {
            tracing::warn!("the state for resuming was not saved: {error}");
            // What was saved before stays good.
            let _ = fs::remove_dir_all(self.save_folder(self.saves.get() + 1));
        }
        self.last.set((Instant::now(), begin.elapsed()));
        saved.is_ok()
    }

    fn save(&self, identity: &Value, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if !self.own.get() {
            self.clear().map_err(Error::io(&self.folder, "cannot remove what another run left in"))?;
            self.own.set(true);
        }
        let save = self.saves.get() + 1;
        let folder = self.save_folder(save);
        // A crash may have left a part of it.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(Error::io(&folder, "cannot create"))?;
        write(&folder)?;
        files::sync_folder(&folder);
        files::sync_folder(&self.folder);
        let pointer = Pointer { save, identity: complete(identity), files: sizes(&folder)? };
        OutputFile::create(&self.pointer(), &[], true)?.commit_json(&pointer)?;
        self.saves.set(save);
        for earlier in 0..save {
            // Usually only the last exists.
            let _ = fs::remove_dir_all(self.save_folder(earlier));
        }
        Ok(())
    }

    /// Removes the state: the work is complete. Another run's stays.
    pub fn remove(&self) {
        if !self.folder.exists() || !self.is_ours() {
            return;
        }
        let abandoned = self.lock.release() && !self.pointer().exists();
        if self.own.get() || self.useless.get() || abandoned {
            let _ = self.clear();
        }
        FolderLock::remove(&self.folder);
        // Stays if there is anything else in it.
        let _ = fs::remove_dir(&self.folder);
    }

    /// Removes what runs have left, the pointer first, and nothing else.
    fn clear(&self) -> std::io::Result<()> {
        let _ = fs::remove_file(self.pointer());
        if !self.folder.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.folder)? {
            let (name, path) = entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))?;
            if is_own(&name) {
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        Ok(())
    }
}

/// Whether runs give a file or folder of the state this name.
fn is_own(name: &str) -> bool {
    let name = output_in_the_making(name).unwrap_or(name);
    name == POINTER || name == LAYERS || name.strip_prefix(SAVE).is_some_and(|number| number.parse::<usize>().is_ok())
}

/// The identity of work with the version that does it.
fn complete(identity: &Value) -> Value {
    serde_json::json!([env!("CARGO_PKG_VERSION"), identity])
}

/// The files of a folder with their sizes.
fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>> {
    let failed = || Error::io(folder, "cannot read");
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.map_err(failed())?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata().map_err(failed())?.len()))
    };
    fs::read_dir(folder).map_err(failed())?.map(entry).collect()
}
