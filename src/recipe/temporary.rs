//! What a recipe will put into temporary files, said before it begins rather than hours later.

use super::RecipeOptions;
use crate::architecture::Site;
use crate::checkpoint::{files, temporary_file, temporary_folder};
use crate::error::Result;
use crate::model::Model;
use crate::plan::Recipe;
use crate::progress::Progress;
use crate::statistics::packed_length;

/// Fails if no temporary file can be made, and notes it if its disk is too small.
pub fn check(model: &Model, options: &RecipeOptions, progress: &dyn Progress) -> Result<()> {
    temporary_file()?;
    if let Some(note) = files::shortage(&temporary_folder(), bytes(model, options), "intermediate results", "point TMPDIR at another disk")
    {
        progress.note(&note);
    }
    Ok(())
}

/// Bytes of the covariances of all sites, in f32, where a recipe needs them again, and of the fitted weights.
fn bytes(model: &Model, options: &RecipeOptions) -> u64 {
    let architecture = &model.architecture;
    let sites = (0..architecture.layers.len()).flat_map(|layer| Site::BOTH.map(|site| architecture.channels(layer, site)));
    let covariances = sites.clone().map(|channels| 4 * packed_length(channels) as u64).sum();
    let writers = sites.map(|channels| (channels * architecture.hidden_size) as u64).sum();
    let (covariances, fitted) = match options.plan.recipe {
        Recipe::Flap => (0, 0),
        Recipe::LeastSquares => (covariances, writers),
        Recipe::Sequential => (0, architecture.prunable_parameters()),
        Recipe::Search => (covariances, architecture.prunable_parameters()),
    };
    let of_parameter = model.tensors.total_bytes() as f64 / model.parameters() as f64;
    covariances + ((1.0 - options.plan.ratio) * of_parameter * fitted as f64) as u64
}
