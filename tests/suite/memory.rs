//! What is held on a device against the budget that was given for it.

use crate::support::{data, gpu_with};
use flap_gpu::calibration::{Calibration, CalibrationOptions, calibrate};
use flap_gpu::engine::Precision;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::engine::gpu::GpuEngine;
use flap_gpu::evaluation::{Predictions, perplexity};
use flap_gpu::model::Model;
use flap_gpu::pass::{Pass, PassOptions};
use flap_gpu::plan::{PlanOptions, Recipe};
use flap_gpu::progress::Silent;
use flap_gpu::recipe;
use flap_gpu::statistics::Mode;

/// Little more than the least that fitting asks for.
const BUDGET: u64 = 670_000;

#[test]
fn passes_stay_within_the_memory_budget() {
    // Products of f16 numbers keep them beside what they multiply.
    for precision in [Precision::F32, Precision::F16] {
        let Some(engine) = gpu_with(precision) else { return };
        stays_within(&engine.with_memory_budget(BUDGET), precision == Precision::F32);
    }
}

/// More tokens at once than a buffer can be bound for are refused before any work, with the number that can.
#[test]
fn batches_beyond_a_binding_are_refused() {
    let Some(engine) = gpu_with(Precision::F32) else { return };
    let model = Model::open(&data("golden/llama3-gqa-rope-scaled-tied-bf16")).unwrap();
    let (architecture, window_tokens) = (&model.architecture, 48);
    let widest = architecture.layers.iter().map(|layer| layer.intermediate_size.max(layer.heads * architecture.head_dim)).max().unwrap();
    // Two windows, and not three.
    let engine = engine.with_binding_limit(4 * (widest.max(architecture.hidden_size) * (3 * window_tokens - 1)) as u64);
    let pass = |batch_tokens| {
        let options = PassOptions { batch_tokens: Some(batch_tokens), ..PassOptions::default() };
        Pass::new(&engine, &model, 24, window_tokens, options, &Silent).map(|_| ())
    };
    assert!(pass(2 * window_tokens).is_ok());
    let refused = pass(3 * window_tokens).unwrap_err().to_string();
    assert!(refused.contains("of 144 tokens") && refused.contains("give --batch-tokens 96 or less"), "{refused}");
}

/// Whatever is kept beside a pass: a larger budget holds all that a smaller one does, and what a refusal says suffices.
#[test]
fn more_memory_never_holds_less() {
    let model = Model::open(&data("golden/llama3-gqa-rope-scaled-tied-bf16")).unwrap();
    let options = PassOptions { reserved: 1 << 20, sums: 10 << 20, eliminations: [40 << 20, 20 << 20], ..PassOptions::default() };
    let begin = |budget: u64| {
        let engine = CpuEngine::default().with_memory_budget(budget);
        Pass::new(&engine, &model, 2, 4096, options, &Silent).map(|pass| pass.room()).map_err(|error| error.to_string())
    };
    let (mut rooms, mut refused) = (Vec::new(), 0);
    for megabytes in 1..160 {
        match begin(megabytes << 20) {
            Ok(room) => rooms.push(room),
            Err(message) => {
                assert!(rooms.is_empty(), "{megabytes} MiB are refused, but less was not: {message}");
                let (_, advice) = message.split_once("--memory-budget ").unwrap();
                let advised: u64 = advice.split_once('M').unwrap().0.parse().unwrap();
                assert!(advised > megabytes && begin(advised << 20).is_ok(), "{megabytes} MiB: {message}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && rooms.is_sorted(), "{rooms:?}");
    rooms.dedup();
    // The sums alone, where those of the smallest budgets are cut to half of them; then one elimination, then both.
    assert!(rooms.ends_with(&[10 << 20, 20 << 20, 40 << 20]), "{rooms:?}");
}

/// `with_fitting`: through a recipe as well, which takes longest.
fn stays_within(engine: &GpuEngine, with_fitting: bool) {
    let model = Model::open(&data("golden/llama3-gqa-rope-scaled-tied-bf16")).unwrap();
    let text: Vec<u32> = (0..4000).map(|i| i * 7919 % 50).collect();
    let set = CalibrationOptions { samples: 24, sequence_length: 48, seed: 0, mode: Mode::Exact, shard: None }.draw(&model, &text).unwrap();
    let pass = PassOptions::default();
    let check = |what: &str| {
        let held = engine.most_memory();
        assert!(held <= BUDGET, "{what} held {held} bytes");
        held
    };
    let calibration = Calibration { engine, model: &model, set: &set, pass, progress: &Silent };
    calibrate(&calibration, None).unwrap();
    check("calibrating");
    perplexity(engine, &model, &set.ids, 48, pass, &Silent).unwrap();
    check("evaluating");
    let side_by_side = PassOptions { other_streams: 1, ..pass };
    let predictions = Predictions::of(engine, &model, &set.ids, 48, side_by_side, &Silent).unwrap();
    predictions.divergence(engine, &predictions).unwrap();
    check("comparing");
    drop(predictions);
    if !with_fitting {
        return;
    }
    let options = PlanOptions { recipe: Recipe::Sequential, ..PlanOptions::default() };
    recipe::run(&calibration, &options, None).unwrap();
    // Buffers of all sizes come and go here: kept without bound they would not stay within it.
    let held = check("fitting");
    assert!(held > BUDGET / 2, "only {held} bytes were held: the budget was not what bounded them");
}
