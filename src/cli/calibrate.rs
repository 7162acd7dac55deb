//! `flap-gpu calibrate` and `flap-gpu merge`.

use super::args::{CalibrateArguments, CalibrationArguments, Common, DEFAULT_TEXT_FIELD, MergeArguments};
use super::eval::{SHORTER, note_long};
use super::terminal::{Terminal, grouped, size};
use super::{open_engine, open_folder, resumable, shown, with_engine};
use crate::calibration::{self, Calibration, CalibrationSet, ENOUGH_BYTES, Shard};
use crate::disk::OutputFile;
use crate::error::Error;
use crate::model::Model;
use crate::progress::Progress;
use crate::recipe;
use crate::resume::ResumeState;
use crate::statistics::{self, Header, Statistics};
use anyhow::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between saves of the state that an interrupted run goes on from.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// Windows drawn when the user does not say.
pub const DEFAULT_SAMPLES: usize = 1024;

pub fn run(args: &CalibrateArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let resume = ResumeState::beside(&args.output, SAVE_INTERVAL, common.force);
    resumable(&resume, terminal, || calibrate(args, common, &resume, terminal))
}

fn calibrate(args: &CalibrateArguments, common: &Common, resume: &ResumeState, terminal: &Terminal) -> Result<()> {
    if !args.covariances && !args.calibration.token_weights.is_equal() {
        return Err(Error::input("--token-weights belongs to the recipes beyond flap: give --covariances too, or leave it out").into());
    }
    let model = open_folder(&args.model, terminal)?;
    let inputs: Vec<&Path> = std::iter::once(&args.model).chain(&args.calibration.calibration).map(PathBuf::as_path).collect();
    let output = OutputFile::create(&args.output, &inputs, common.force)?;
    let set = draw(&model, &args.calibration, DEFAULT_SAMPLES, args.shard, common, terminal)?;
    let engine = open_engine(common)?;
    let begin = Instant::now();
    let statistics = with_engine!(engine, e => {
        let calibration = Calibration { engine: e, model: &model, set: &set, pass: args.calibration.passes(), progress: terminal };
        if args.covariances {
            recipe::calibrate(&calibration, args.calibration.token_weights, Some(resume))
        } else {
            calibration::calibrate(&calibration, Some(resume))
        }
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    statistics::write(&output.path(), &statistics.header, &statistics.layers)?;
    output.commit()?;
    // Finished layers may be mapped: some systems remove no file that is.
    drop(statistics);
    resume.remove();
    let report = json!({
        "output": shown(&args.output),
        "calibration": timing(&set.header, seconds, resume.went_on()),
        "windows": set.header.windows,
        "device": engine.info().label(),
    });
    terminal.result(&report, || {
        format!(
            "{}: {} tokens in {seconds:.1} s ({}) on {}",
            args.output.display(),
            grouped(set.header.tokens()),
            if resume.went_on() {
                "the last layers of an interrupted run".to_string()
            } else {
                format!("{:.0} tokens/s", set.header.tokens() as f64 / seconds)
            },
            engine.info().label()
        )
    })
}

/// Tokens, seconds and their ratio, which a run that went on from an earlier one does not have.
pub fn timing(header: &Header, seconds: f64, went_on: bool) -> serde_json::Value {
    let tokens = header.tokens();
    let rate = (!went_on).then_some(tokens as f64 / seconds);
    json!({"tokens": tokens, "seconds": seconds, "tokens_per_second": rate})
}

/// Reads and tokenises the calibration text, and draws the windows.
pub fn draw(
    model: &Model,
    args: &CalibrationArguments,
    samples: usize,
    shard: Option<Shard>,
    common: &Common,
    terminal: &Terminal,
) -> Result<CalibrationSet> {
    let source = args.source()?;
    let (text, is_cut) = source.read_enough(ENOUGH_BYTES)?;
    if is_cut {
        terminal.note(&format!(
            "{} is long: {} from its beginning are enough to draw windows from",
            source.path.display(),
            size(text.len() as u64)
        ));
    }
    let tokenizer = model.tokenizer()?;
    terminal.start("tokenising", "", 0);
    let tokens = tokenizer.encode(text)?;
    terminal.finish();
    let mut set = args.options(samples, shard).draw(model, &tokens)?;
    let drawn = set.header.samples * set.header.sequence_length;
    if tokens.len() < drawn {
        terminal.note(&format!(
            "the text has {} tokens, and {} are drawn from it: windows overlap; a longer text says more about the model",
            grouped(tokens.len() as u64),
            grouped(drawn as u64)
        ));
    }
    set.header.options = common.options(args.batch_tokens);
    if args.text_field != DEFAULT_TEXT_FIELD {
        set.header.options.extend(["--text-field".into(), args.text_field.clone()]);
    }
    set.header.text_file = source.path.file_name().map(|name| name.to_string_lossy().into_owned());
    note_long(model, set.header.sequence_length, SHORTER, terminal)?;
    Ok(set)
}

pub fn merge(args: &MergeArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let inputs: Vec<&Path> = args.statistics.iter().map(PathBuf::as_path).collect();
    let output = OutputFile::create(&args.output, &inputs, common.force)?;
    let parts = args.statistics.iter().map(|path| statistics::read(path)).collect::<Result<Vec<Statistics>, _>>()?;
    let merged = statistics::merge(parts)?;
    statistics::write(&output.path(), &merged.header, &merged.layers)?;
    output.commit()?;
    let header = &merged.header;
    if !header.is_complete() {
        terminal.note(&format!(
            "of {} windows only {:?} are measured so far; merge the missing shards before planning",
            header.samples, header.windows
        ));
    }
    let report =
        json!({"output": shown(&args.output), "tokens": header.tokens(), "windows": header.windows, "complete": header.is_complete()});
    terminal
        .result(&report, || format!("{}: {} tokens from {} files", args.output.display(), grouped(header.tokens()), args.statistics.len()))
}
