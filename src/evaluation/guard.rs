//! The guard of the recipes beyond FLAP: is the result nearer to the dense model than plain FLAP's would be?

use super::Predictions;
use crate::checkpoint::OutputFolder;
use crate::compensation;
use crate::engine::Engine;
use crate::error::Result;
use crate::export::{ExportOptions, Format, export};
use crate::model::Model;
use crate::pass::PassOptions;
use crate::plan::{PlanOptions, Recipe};
use crate::progress::Progress;
use crate::pruning;
use crate::statistics::Statistics;
use std::path::Path;

/// Mean divergence of predictions from the dense model's, in nats a token.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    /// Of the recipe's model.
    pub recipe: f64,
    /// Of plain FLAP's.
    pub flap: f64,
}

/// What is compared, and on what.
pub struct Guarded<'a> {
    /// The dense model.
    pub dense: &'a Model,
    /// The recipe's model.
    pub pruned: &'a Model,
    /// What FLAP would have measured.
    pub statistics: &'a Statistics,
    /// What the recipe was asked for.
    pub options: &'a PlanOptions,
    /// How the recipe's model was written.
    pub export: &'a ExportOptions,
    /// Token ids of whole windows.
    pub ids: &'a [u32],
    /// Tokens of a window.
    pub window_tokens: usize,
}

impl Guarded<'_> {
    /// Measures both. FLAP's model is written into `folder` for the while, and removed.
    pub fn measure<E: Engine>(&self, engine: &E, pass: PassOptions, folder: &Path, progress: &dyn Progress) -> Result<Guard> {
        // Two models' predictions lie side by side.
        let pass = PassOptions { other_streams: 1, ..pass };
        let predictions = |model: &Model, pass| Predictions::of(engine, model, self.ids, self.window_tokens, pass, progress);
        let dense = predictions(self.dense, pass)?;
        // The smaller models in the batches of the dense one.
        let pass = PassOptions { batch_tokens: Some(dense.batch_tokens()), ..pass };
        let of = |pruned: &Model| dense.divergence(engine, &predictions(pruned, pass)?);
        let options = PlanOptions { recipe: Recipe::Flap, ..self.options.clone() };
        let (plan, _) = pruning::plan_from_statistics(self.dense, self.statistics, &options)?;
        let biases = compensation::biases(engine, self.dense, Some(self.statistics), &plan, progress)?;
        let place = folder.join("flap");
        let temporary = OutputFolder::create(&place, &self.dense.path, false)?;
        // In the same form: what a number format costs is no merit of the other.
        let form = if self.export.formats.contains(&Format::Hf) { Format::Hf } else { Format::Gguf };
        let form = ExportOptions { formats: vec![form], ..self.export.clone() };
        export(self.dense, &plan, &biases.into(), &form, &temporary, progress)?;
        Ok(Guard { recipe: of(self.pruned)?, flap: of(&Model::open(temporary.path())?)? })
    }
}
