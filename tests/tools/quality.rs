//! Measures what every recipe loses, and prints a table in Markdown:
//!
//! `cargo run --release --example quality [-- SHARED]`
//!
//! SHARED is the folder of reference material (default `../shared`): trained models, and texts to calibrate and test on. 512 windows of
//! 128 tokens, seed 0; perplexity on the first 60 000 tokens of the test text in windows of 128.

use flap_gpu::calibration::{Calibration, CalibrationOptions, TextSource};
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::error::Result;
use flap_gpu::evaluation::perplexity;
use flap_gpu::export::{ExportOptions, export, folder};
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::plan::{PlanOptions, Recipe};
use flap_gpu::progress::Silent;
use flap_gpu::recipe::{self, search_passes};
use flap_gpu::statistics::{Mode, TokenWeights};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Model, name of the calibration, its text, text to test on.
const CASES: [(&str, &str, &str, &str); 6] = [
    ("wiki-llama", "own", "wikitext-2.train.txt", "wikitext-2.test.txt"),
    ("wiki-llama", "C4", "c4-sample.jsonl", "wikitext-2.test.txt"),
    ("stories260k-mha", "own", "tinystories.train.txt", "tinystories.test.txt"),
    ("stories260k-mha", "C4", "c4-sample.jsonl", "tinystories.test.txt"),
    ("stories260k", "own", "tinystories.train.txt", "tinystories.test.txt"),
    ("stories260k", "C4", "c4-sample.jsonl", "tinystories.test.txt"),
];
/// Label, recipe, passes without the search, whether the readers are fitted, how much tokens count.
const RECIPES: [(&str, Recipe, f64, bool, TokenWeights); 7] = [
    ("`flap`", Recipe::Flap, 1.0, true, TokenWeights::Equal),
    ("`least-squares`", Recipe::LeastSquares, 1.0, true, TokenWeights::Equal),
    ("`least-squares`, weighted", Recipe::LeastSquares, 1.0, true, TokenWeights::InverseSquare),
    ("`sequential --no-refit`", Recipe::Sequential, 2.0, false, TokenWeights::Equal),
    ("`sequential`", Recipe::Sequential, 2.0, true, TokenWeights::Equal),
    ("`sequential`, weighted", Recipe::Sequential, 2.0, true, TokenWeights::InverseSquare),
    ("`search`", Recipe::Search, 2.0, true, TokenWeights::Equal),
];
const RATIOS: [f64; 3] = [0.2, 0.3, 0.5];
const WINDOW_TOKENS: usize = 128;
const TEST_TOKENS: usize = 60_000;

/// Prunes, writes, reads back and measures; returns perplexity and seconds of pruning.
fn measure(model: &Model, tokens: &[u32], test: &[u32], plan: &PlanOptions, folder: &Path) -> Result<(f64, f64)> {
    let engine = CpuEngine::default();
    let options = CalibrationOptions { samples: 512, sequence_length: WINDOW_TOKENS, seed: 0, mode: Mode::Exact, shard: None };
    let set = options.draw(model, tokens)?;
    let pass = PassOptions::default();
    let begin = Instant::now();
    let outcome = recipe::run(&Calibration { engine: &engine, model, set: &set, pass, progress: &Silent }, plan, None)?;
    let seconds = begin.elapsed().as_secs_f64();
    let place = folder.join("pruned");
    let output = folder::create(&place, &[&model.path], true)?;
    export(model, &outcome.plan, &outcome.changes, &ExportOptions::hf(&place), &output, &Silent)?;
    output.commit()?;
    let pruned = Model::open(&place)?;
    Ok((perplexity(&engine, &pruned, test, WINDOW_TOKENS, pass, &Silent)?.perplexity, seconds))
}

fn tell(text: &str) {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).expect("standard output is open");
}

fn main() -> Result<()> {
    let shared = std::env::args().nth(1).map_or_else(|| PathBuf::from("../shared"), PathBuf::from);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    tell("| model | calibration | recipe | passes | seconds | 20 % | 30 % | 50 % |\n|---|---|---|---|---|---|---|---|\n");
    for (name, calibration, text, test) in CASES {
        let model = Model::open(&shared.join("models").join(name))?;
        let tokenizer = model.tokenizer()?;
        let encode = |file: &str| -> Result<Vec<u32>> {
            tokenizer.encode(TextSource { path: shared.join("text").join(file), field: "text".into() }.read()?)
        };
        let (tokens, mut test) = (encode(text)?, encode(test)?);
        test.truncate(TEST_TOKENS.min(test.len()) / WINDOW_TOKENS * WINDOW_TOKENS);
        let dense = perplexity(&CpuEngine::default(), &model, &test, WINDOW_TOKENS, PassOptions::default(), &Silent)?.perplexity;
        for (label, recipe, passes, refit, token_weights) in RECIPES {
            // At the largest ratio.
            let searched = if recipe == Recipe::Search { search_passes(2 * model.architecture.layers.len(), RATIOS[2]) } else { 0.0 };
            let plan = |ratio: f64| PlanOptions { recipe, ratio, token_weights, refit, ..PlanOptions::default() };
            let mut cells = Vec::new();
            let mut seconds = 0.0f64;
            for ratio in RATIOS {
                let (perplexity, took) = measure(&model, &tokens, &test, &plan(ratio), folder.path())?;
                cells.push(format!("{perplexity:.2}"));
                seconds = seconds.max(took);
            }
            let passes = passes + searched;
            let row = format!("| {name} ({dense:.2}) | {calibration} | {label} | {passes:.0} | {seconds:.1} | {} |\n", cells.join(" | "));
            tell(&row);
        }
    }
    Ok(())
}
