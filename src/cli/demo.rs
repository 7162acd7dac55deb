//! `flap-gpu demo`: the whole way on the small model that ships inside the program.

use super::args::Common;
use super::terminal::{Terminal, grouped, size, table};
use super::{open_engine, with_engine};
use crate::calibration::{Calibration, CalibrationOptions, sequential_windows};
use crate::disk::files;
use crate::engine::Engine;
use crate::evaluation::perplexity;
use crate::export::{self, ExportOptions, folder};
use crate::model::Model;
use crate::pass::PassOptions;
use crate::plan::{PlanOptions, Recipe};
use crate::recipe;
use crate::statistics::Mode;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const MODEL: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../demo/model/config.json")),
    ("model.safetensors", include_bytes!("../../demo/model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../demo/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../demo/model/tokenizer_config.json")),
];
const CALIBRATION_TEXT: &str = include_str!("../../demo/calibration.txt");
const TEST_TEXT: &str = include_str!("../../demo/test.txt");
const WINDOW_TOKENS: usize = 256;
const CALIBRATION: CalibrationOptions = CalibrationOptions { samples: 256, sequence_length: 128, seed: 0, mode: Mode::Exact, shard: None };
const RATIOS: [f64; 2] = [0.2, 0.5];
const RECIPES: [Recipe; 2] = [Recipe::Flap, Recipe::Sequential];

/// One line of the table.
struct Row {
    name: String,
    perplexity: f64,
    parameters: u64,
    bytes: u64,
    seconds: f64,
    heads: Vec<usize>,
    neurons: Vec<usize>,
}

pub fn run(common: &Common, terminal: &Terminal) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let dense = folder.path().join("dense");
    std::fs::create_dir(&dense).context("cannot create a temporary folder")?;
    for (name, content) in MODEL {
        files::write(&dense.join(name), content)?;
    }
    let engine = open_engine(common)?;
    let rows = with_engine!(engine, e => rows(e, &dense, folder.path(), PassOptions::default(), terminal))?;
    let report = json!({"device": engine.info().label(), "models": rows.iter().map(|row| json!({
        "name": row.name, "perplexity": row.perplexity, "parameters": row.parameters, "weight_bytes": row.bytes, "seconds": row.seconds,
        "heads": row.heads, "neurons": row.neurons,
    })).collect::<Vec<_>>()});
    terminal.result(&report, || text(&rows, &engine.info().label()))
}

fn text(rows: &[Row], device: &str) -> String {
    let list = |values: &[usize]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let line = |row: &Row| {
        vec![
            row.name.clone(),
            format!("{:.3}", row.perplexity),
            grouped(row.parameters),
            size(row.bytes),
            format!("{:.2}", row.seconds),
            list(&row.heads),
            list(&row.neurons),
        ]
    };
    let header = ["model", "perplexity", "parameters", "weights", "seconds", "heads per layer", "neurons per layer"];
    format!(
        "A small story model, pruned on {device}: no retraining, one pass over a little text with FLAP, two with the sequential recipe.\n{}\n\
         Perplexity: on text the model has not seen, in windows of {WINDOW_TOKENS} tokens; lower is better. Seconds: calibration, planning and writing.\n\
         Now with your own: flap-gpu prune MODEL --output DIR --calibration TEXT.txt --ratio 0.2",
        table(&header, rows.iter().map(line).collect())
    )
}

fn rows<E: Engine>(engine: &E, dense: &Path, folder: &Path, pass: PassOptions, terminal: &Terminal) -> Result<Vec<Row>> {
    let model = Model::open(dense)?;
    let tokenizer = model.tokenizer()?;
    let mut test = tokenizer.encode(TEST_TEXT)?;
    test.truncate(sequential_windows(test.len(), WINDOW_TOKENS, None)? * WINDOW_TOKENS);
    let mut rows = vec![row(engine, "dense".into(), &model, &test, 0.0, pass, terminal)?];
    let set = CALIBRATION.draw(&model, &tokenizer.encode(CALIBRATION_TEXT)?)?;
    let calibration = Calibration { engine, model: &model, set: &set, pass, progress: terminal };
    for ratio in RATIOS {
        for recipe in RECIPES {
            let begin = Instant::now();
            let outcome = recipe::run(&calibration, &PlanOptions { recipe, ratio, ..PlanOptions::default() }, None)?;
            outcome.notes.iter().for_each(|note| terminal.note(note));
            let output = folder.join(format!("pruned-{ratio}-{}", recipe.name()));
            let place = folder::create(&output, &[dense], false)?;
            export::export(&model, &outcome.plan, &outcome.changes, &ExportOptions::hf(&output), &place, terminal)?;
            place.commit()?;
            let seconds = begin.elapsed().as_secs_f64();
            let name = format!("{:.0} % pruned, {}", 100.0 * ratio, recipe.name());
            rows.push(row(engine, name, &Model::open(&output)?, &test, seconds, pass, terminal)?);
        }
    }
    Ok(rows)
}

fn row<E: Engine>(
    engine: &E,
    name: String,
    model: &Model,
    test: &[u32],
    seconds: f64,
    pass: PassOptions,
    terminal: &Terminal,
) -> Result<Row> {
    let layers = &model.architecture.layers;
    Ok(Row {
        name,
        perplexity: perplexity(engine, model, test, WINDOW_TOKENS, pass, terminal)?.perplexity,
        parameters: model.parameters(),
        bytes: model.tensors.total_bytes(),
        seconds,
        heads: layers.iter().map(|l| l.heads).collect(),
        neurons: layers.iter().map(|l| l.intermediate_size).collect(),
    })
}
