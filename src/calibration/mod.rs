//! Calibration: windows of text through the dense model, layer by layer, while the moments of every site's channels are taken.

mod measure;
mod text;
mod windows;

pub(crate) use measure::{ChannelMoments, HIDDEN_STATES, check_finite, load_layers, read_statistics, save_layers, write_statistics};
pub use text::{ENOUGH_BYTES, TextSource, fingerprint};
pub use windows::{Shard, held_out, sequential_windows, window_starts};

use crate::architecture::Site;
use crate::disk::files;
use crate::engine::{DeviceKind, Engine};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::pass::{Pass, PassOptions};
use crate::progress::Progress;
use crate::resume::ResumeState;
use crate::statistics::{Header, Mode, Statistics};
use measure::Measure;
use memmap2::Mmap;
use serde_json::{Value, json};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

/// Slots in which a site's moments are gathered on the device (see [`crate::engine::MomentsShape`]). Shards are cut at slot
/// borders, so up to this many shards give the very same slots as one run.
const SLOTS: usize = 64;

/// What was fitted to a calibration is judged by other windows of its text, one for so many, and at least so many.
const HELD_OUT_SHARE: usize = 16;
const LEAST_HELD_OUT: usize = 8;
/// So many windows are drawn for each one that is wanted: most share tokens with others where a text is short.
const TRIES: usize = 32;

/// What to calibrate on.
#[derive(Debug, Clone)]
pub struct CalibrationOptions {
    /// Windows drawn from the text.
    pub samples: usize,
    /// Tokens of a window.
    pub sequence_length: usize,
    /// Seed of the windows' starts.
    pub seed: u64,
    /// Exact moments, or those of the authors' code.
    pub mode: Mode,
    /// Only part of the windows.
    pub shard: Option<Shard>,
}

/// The windows of a calibration.
pub struct CalibrationSet {
    /// What the statistics will say of themselves.
    pub header: Header,
    /// The windows' token ids, one after the other.
    pub ids: Vec<u32>,
    /// Those of windows of the same text that share no token with them; none if it is too short.
    pub held_out: Vec<u32>,
    /// Windows that share a slot.
    windows_per_slot: usize,
    /// Of the interrupted run that has measured the first layers.
    earlier: OnceLock<Header>,
}

impl CalibrationSet {
    /// Windows in this set.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.ids.len() / self.header.sequence_length
    }

    /// The token ids of the first windows, one for so many.
    #[must_use]
    pub fn one_in(&self, share: usize) -> &[u32] {
        &self.ids[..self.windows().div_ceil(share) * self.header.sequence_length]
    }

    /// Windows to judge by what was fitted: those held out, or some of its own where there are none.
    #[must_use]
    pub fn judges(&self) -> &[u32] {
        if self.held_out.is_empty() { self.one_in(HELD_OUT_SHARE) } else { &self.held_out }
    }

    /// Says what the interrupted run said of itself whose layers are taken over.
    pub(crate) fn go_on_from(&self, earlier: Header) {
        // It is the same one if this set is measured twice.
        let _ = self.earlier.set(earlier);
    }

    /// What the statistics say of themselves once they are measured on this engine.
    pub fn measured_on<E: Engine>(&self, engine: &E) -> Header {
        let info = engine.info();
        let operands = info.operands.name().to_lowercase();
        let device = format!("{}, {operands} products", info.label());
        // Which GPU it was is not for the next machine.
        let device_option = (info.kind == DeviceKind::Cpu).then_some(["--device", "cpu"]).into_iter().flatten().map(String::from);
        let options = device_option.chain(["--precision".into(), operands]).chain(self.header.options.iter().cloned()).collect();
        let mut header = Header { devices: vec![device], options, ..self.header.clone() };
        self.earlier.get().into_iter().for_each(|earlier| header.add_maker(earlier));
        header
    }

    /// What an interrupted run must have in common with the one that goes on: the windows, the model, the operands of its products.
    pub(crate) fn identity<E: Engine>(&self, engine: &E, model: &Model) -> Value {
        // How many tokens go together may change, for example because memory did not suffice; so may the name of the text.
        let header = Header { options: Vec::new(), text_file: None, ..self.header.clone() };
        json!([header, model.files(), engine.info().operands])
    }

    /// A pass beside the moments of a layer's channels, which stay on the device.
    pub(crate) fn leave_room(&self, model: &Model, options: PassOptions) -> PassOptions {
        let of_layer = |layer| Site::BOTH.iter().map(|&site| model.architecture.channels(layer, site)).sum::<usize>();
        let channels = (0..model.architecture.layers.len()).map(of_layer).max().unwrap_or(0);
        // Four numbers a channel.
        let moments = 16 * (self.windows().div_ceil(self.windows_per_slot) * channels) as u64;
        PassOptions { reserved: options.reserved + moments, ..options }
    }

    /// The hidden states of these windows, which [`crate::pass::Batch::save`] wrote.
    pub(crate) fn map_hidden_states(&self, model: &Model, path: &Path) -> Result<Mmap> {
        let map = files::map(path)?;
        if map.len() == 4 * self.ids.len() * model.architecture.hidden_size {
            return Ok(map);
        }
        Err(Error::file(path, "has not the hidden states of these windows"))
    }
}

/// Tokens of a calibration: far more than any statistics gain by.
const MOST_TOKENS: usize = 1 << 28;

impl CalibrationOptions {
    /// Draws the windows from the tokens of a text.
    pub fn draw(&self, model: &Model, tokens: &[u32]) -> Result<CalibrationSet> {
        let length = self.sequence_length;
        if self.samples.checked_mul(length).is_none_or(|ids| ids > MOST_TOKENS) {
            return Err(Error::input(format!(
                "--samples {} windows of {length} tokens are more than the {MOST_TOKENS} tokens that a calibration may have",
                self.samples
            )));
        }
        let wanted = self.samples.div_ceil(HELD_OUT_SHARE).max(LEAST_HELD_OUT);
        let starts = window_starts(tokens.len(), length, self.samples + TRIES * wanted, self.seed)?;
        let held_out = held_out(&starts, self.samples, length, wanted);
        let windows_per_slot = match self.mode {
            Mode::Exact => self.samples.div_ceil(SLOTS),
            // The order of windows matters: each is read back and taken in by the host.
            Mode::Compat => 1,
        };
        let range: Range<usize> = match self.shard {
            None => 0..self.samples,
            Some(_) if self.mode == Mode::Compat => {
                return Err(Error::input(
                    "--compat updates its statistics window by window, so their order matters and they cannot be sharded",
                ));
            }
            Some(shard) => shard.windows(self.samples, windows_per_slot)?,
        };
        let ids_of = |starts: &[usize]| starts.iter().flat_map(|&start| tokens[start..start + length].iter().copied()).collect();
        let ids = ids_of(&starts[range.clone()]);
        let held_out = if held_out.len() < LEAST_HELD_OUT { Vec::new() } else { ids_of(&held_out) };
        let header = Header {
            model: model.fingerprint(),
            text: fingerprint(tokens),
            seed: self.seed,
            samples: self.samples,
            sequence_length: length,
            mode: self.mode,
            windows: vec![range],
            covariances: None,
            text_file: None,
            devices: Vec::new(),
            options: Vec::new(),
        };
        Ok(CalibrationSet { header, ids, held_out, windows_per_slot, earlier: OnceLock::new() })
    }
}

/// Windows that are to go through a model.
pub struct Calibration<'a, E: Engine> {
    /// Computes.
    pub engine: &'a E,
    /// The dense model.
    pub model: &'a Model,
    /// The windows.
    pub set: &'a CalibrationSet,
    /// Memory.
    pub pass: PassOptions,
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
}

impl<'a, E: Engine> Calibration<'a, E> {
    /// A pass of these windows, with what the options say beside it.
    pub(crate) fn start(&self, options: PassOptions) -> Result<Pass<'a, E>> {
        Pass::new(self.engine, self.model, self.set.windows(), self.set.header.sequence_length, options, self.progress)
    }

    /// Tokens of so many layers.
    pub(crate) fn tokens(&self, layers: usize) -> u64 {
        (self.set.ids.len() * layers) as u64
    }
}

/// Measures all layers of a model. With `resume`, finished layers are kept there, and an interrupted run goes on from them.
pub fn calibrate<E: Engine>(calibration: &Calibration<'_, E>, resume: Option<&ResumeState>) -> Result<Statistics> {
    let &Calibration { engine, model, set, progress, .. } = calibration;
    let pass = calibration.start(set.leave_room(model, calibration.pass))?;
    let identity = set.identity(engine, model);
    let finished = resume.map(|state| state.load(&identity, progress, |folder| load_layers(model, set, folder))).transpose()?;
    let (layers, mut batches) = match finished.flatten() {
        Some((Statistics { header, layers }, hidden_states)) => {
            progress.note(&format!("going on after layer {} of an interrupted run", layers.len() - 1));
            set.go_on_from(header);
            (layers, pass.restore(&hidden_states)?)
        }
        None => (Vec::new(), pass.embed(&set.ids)?),
    };
    let first = layers.len();
    progress.start("calibrating", "tokens x layers", calibration.tokens(model.architecture.layers.len() - first));
    let mut measure = Measure::new(set, layers, resume.map(|state| (state, identity)));
    pass.layers(first, &mut batches, &mut measure)?;
    progress.finish();
    let statistics = Statistics { header: set.measured_on(engine), layers: measure.into_layers() };
    Ok(statistics)
}
