//! What is held on a device against the budget that was given for it.

use crate::support::{data, gpu_with};
use flap_gpu::calibration::{CalibrationOptions, calibrate};
use flap_gpu::engine::Precision;
use flap_gpu::engine::gpu::GpuEngine;
use flap_gpu::evaluation::{Predictions, perplexity};
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::plan::{PlanOptions, Recipe};
use flap_gpu::progress::Silent;
use flap_gpu::recipe::{self, RecipeOptions};
use flap_gpu::statistics::Mode;

/// Little more than the least that fitting asks for.
const BUDGET: u64 = 640_000;

#[test]
fn passes_stay_within_the_memory_budget() {
    // Products of f16 numbers keep them beside what they multiply.
    for precision in [Precision::F32, Precision::F16] {
        let Some(engine) = gpu_with(precision) else { return };
        stays_within(&engine.with_memory_budget(BUDGET), precision == Precision::F32);
    }
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
    calibrate(engine, &model, &set, pass, None, &Silent).unwrap();
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
    let options = RecipeOptions { plan: PlanOptions { recipe: Recipe::Sequential, ..PlanOptions::default() }, pass, refit: true };
    recipe::run(engine, &model, &set, &options, None, &Silent).unwrap();
    // Buffers of all sizes come and go here: kept without bound they would not stay within it.
    let held = check("fitting");
    assert!(held > BUDGET / 2, "only {held} bytes were held: the budget was not what bounded them");
}
