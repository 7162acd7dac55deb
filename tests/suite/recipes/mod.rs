//! The recipes beyond FLAP.

mod algebra;
mod allocation;
mod reference;
mod runs;

use flap_gpu::calibration::{Calibration, CalibrationSet};
use flap_gpu::engine::Engine;
use flap_gpu::error::Result;
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::plan::{PlanOptions, Recipe};
use flap_gpu::progress::{Progress, Silent};
use flap_gpu::recipe::{self, Outcome};

fn options(recipe: Recipe, ratio: f64) -> PlanOptions {
    PlanOptions { recipe, ratio, ..PlanOptions::default() }
}

/// In several batches, so that sums over batches are tested.
fn calibration<'a, E: Engine>(engine: &'a E, model: &'a Model, set: &'a CalibrationSet, progress: &'a dyn Progress) -> Calibration<'a, E> {
    let pass = PassOptions { batch_tokens: Some(5 * 48), ..PassOptions::default() };
    Calibration { engine, model, set, pass, progress }
}

fn run<E: Engine>(engine: &E, model: &Model, set: &CalibrationSet, options: &PlanOptions) -> Result<Outcome> {
    recipe::run(&calibration(engine, model, set, &Silent), options, None)
}
