//! What an interrupted calibration leaves beside its output, so that the next call goes on from the last saved layer.
//!
//! A folder `OUTPUT.resume` with the statistics of the finished layers, the hidden states that enter the next one, and a small
//! file that ties them together, written last.

use crate::checkpoint::files;
use crate::error::{Error, Result};
use crate::statistics::{self, Header, LayerStatistics, Statistics};
use std::borrow::Cow;
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Saving may take this share of the time since the last save: one part in ten.
const COST_SHARE: u32 = 10;

/// See the module's text.
pub struct ResumeState {
    folder: PathBuf,
    /// Shortest time between two saves.
    interval: Duration,
    last: Cell<(Instant, Duration)>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Pointer {
    layers: usize,
    /// Size of the hidden states' file.
    bytes: u64,
    header: Header,
}

impl ResumeState {
    /// The state that belongs to a statistics file. Saves come at least `interval` apart.
    #[must_use]
    pub fn beside(output: &Path, interval: Duration) -> Self {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".resume");
        Self { folder: output.with_file_name(name), interval, last: Cell::new((Instant::now(), Duration::ZERO)) }
    }

    fn pointer(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    fn statistics(&self, layers: usize) -> PathBuf {
        self.folder.join(format!("statistics-{layers}.safetensors"))
    }

    fn hidden_states(&self, layers: usize) -> PathBuf {
        self.folder.join(format!("hidden-states-{layers}.f32"))
    }

    /// Finished layers and the hidden states after them, if they belong to the calibration `header`. Says why if they do not.
    #[must_use]
    pub fn load(&self, header: &Header) -> Option<(Vec<LayerStatistics>, memmap2::Mmap)> {
        if !self.pointer().exists() {
            return None;
        }
        let loaded = || -> Result<_> {
            let pointer: Pointer = files::read_json(&self.pointer())?;
            if pointer.header != *header {
                return Err(Error::file(&self.folder, "was left by a run with another model, text or options"));
            }
            let finished = statistics::read(&self.statistics(pointer.layers))?;
            let path = self.hidden_states(pointer.layers);
            let hidden_states = files::map(&path)?;
            if hidden_states.len() as u64 != pointer.bytes || finished.layers.len() != pointer.layers {
                return Err(Error::file(&path, "is incomplete"));
            }
            Ok((finished.layers, hidden_states))
        };
        match loaded() {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!("starting from the first layer: an interrupted run cannot be continued: {error}");
                None
            }
        }
    }

    /// Saves, if the last save is long enough ago for its cost. `hidden_states` gives them batch by batch. A failure to save is
    /// told, but does not stop the run.
    pub fn save_if_due<'s>(
        &self,
        header: &Header,
        layers: &[LayerStatistics],
        hidden_states: impl Iterator<Item = Result<Cow<'s, [f32]>>>,
    ) {
        let (last, cost) = self.last.get();
        if last.elapsed() < self.interval.max(cost * COST_SHARE) {
            return;
        }
        let begin = Instant::now();
        if let Err(error) = self.save(header, layers, hidden_states) {
            tracing::warn!("the state for resuming was not saved: {error}");
            self.remove();
        }
        self.last.set((Instant::now(), begin.elapsed()));
    }

    fn save<'s>(
        &self,
        header: &Header,
        layers: &[LayerStatistics],
        hidden_states: impl Iterator<Item = Result<Cow<'s, [f32]>>>,
    ) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder, "cannot create"))?;
        let count = layers.len();
        let path = self.hidden_states(count);
        let mut file = fs::File::create(&path).map_err(Error::io(&path, "cannot create"))?;
        let mut bytes = 0;
        for part in hidden_states {
            let part = part?;
            bytes += size_of_val(&*part) as u64;
            file.write_all(bytemuck::cast_slice(&part)).map_err(Error::io(&path, "cannot write"))?;
        }
        statistics::write(&self.statistics(count), &Statistics { header: header.clone(), layers: layers.to_vec() })?;
        let temporary = self.folder.join("state.json.new");
        files::write_json(&temporary, &Pointer { layers: count, bytes, header: header.clone() })?;
        let pointer = self.pointer();
        fs::rename(&temporary, &pointer).map_err(Error::io(&pointer, "cannot write"))?;
        for layers in 0..count {
            // Left over from earlier saves; usually only the last exists.
            let _ = fs::remove_file(self.hidden_states(layers));
            let _ = fs::remove_file(self.statistics(layers));
        }
        Ok(())
    }

    /// Removes the state: the calibration is complete.
    pub fn remove(&self) {
        // It may never have been written.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
