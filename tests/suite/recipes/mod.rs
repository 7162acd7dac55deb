//! The recipes beyond FLAP.

mod algebra;
mod allocation;
mod reference;
mod runs;

use flap_gpu::pass::PassOptions;
use flap_gpu::plan::{PlanOptions, Recipe};
use flap_gpu::recipe::RecipeOptions;

fn options(recipe: Recipe, ratio: f64) -> RecipeOptions {
    // Several batches, so that sums over batches are tested.
    let pass = PassOptions { batch_tokens: Some(5 * 48), ..PassOptions::default() };
    RecipeOptions { plan: PlanOptions { recipe, ratio, ..PlanOptions::default() }, pass, refit: true }
}
