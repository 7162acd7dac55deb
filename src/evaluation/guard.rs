//! The guard of the recipes beyond FLAP: is the result nearer to the dense model than plain FLAP's would be?

use super::Predictions;
use crate::compaction::{Changes, CompactModel};
use crate::compensation;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Model;
use crate::pass::PassOptions;
use crate::plan::{Plan, PlanOptions, Recipe};
use crate::progress::Progress;
use crate::pruning;
use crate::statistics::Statistics;

/// Mean divergence of predictions from the dense model's, in nats a token.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// Of the recipe's model.
    pub recipe: f64,
    /// Of plain FLAP's.
    pub flap: f64,
    /// Share of the prunable parameters that plain FLAP removes, which multiples may keep from the ratio.
    pub flap_ratio: f64,
}

/// What is compared, and on what.
pub struct Guarded<'a> {
    /// The dense model.
    pub dense: &'a Model,
    /// The recipe's plan.
    pub plan: &'a Plan,
    /// What the recipe changes besides.
    pub changes: &'a Changes,
    /// What FLAP would have measured.
    pub statistics: &'a Statistics,
    /// What the recipe was asked for.
    pub options: &'a PlanOptions,
    /// Token ids of whole windows.
    pub ids: &'a [u32],
    /// Tokens of a window.
    pub window_tokens: usize,
}

impl Guarded<'_> {
    /// Measures both, in the number format of the checkpoint; neither is read from a file.
    pub fn measure<E: Engine>(&self, engine: &E, pass: PassOptions, progress: &dyn Progress) -> Result<Guard> {
        // Two models' predictions lie side by side.
        let pass = PassOptions { other_streams: 1, ..pass };
        let dense = Predictions::of(engine, self.dense, self.ids, self.window_tokens, pass, progress)?;
        // The smaller models in the batches of the dense one.
        let pass = PassOptions { batch_tokens: Some(dense.batch_tokens()), ..pass };
        let of = |plan: &Plan, changes: &Changes| {
            let pruned = CompactModel::pruned(self.dense, plan, changes)?;
            let pruned = Predictions::of_pruned(engine, (self.dense, &pruned), self.ids, self.window_tokens, pass, progress)?;
            dense.divergence(engine, &pruned)
        };
        let options = PlanOptions { recipe: Recipe::Flap, ..self.options.clone() };
        let (plan, _) = pruning::plan_from_statistics(self.dense, self.statistics, &options)?;
        let biases = compensation::biases(engine, self.dense, Some(self.statistics), &plan, progress)?;
        Ok(Guard { recipe: of(self.plan, self.changes)?, flap: of(&plan, &biases.into())?, flap_ratio: plan.ratio_reached })
    }
}
