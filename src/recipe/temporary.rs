//! What a recipe will put into temporary files, said before it begins rather than hours later.

use super::saves::keeps_covariances;
use crate::architecture::Site;
use crate::disk::{temporary_file, temporary_shortage};
use crate::error::Result;
use crate::model::Model;
use crate::plan::{PlanOptions, Recipe};
use crate::progress::Progress;
use crate::statistics::packed_length;

/// Fails if no temporary file can be made, and notes it if its disk has less than `bytes`.
pub fn check(bytes: u64, progress: &dyn Progress) -> Result<()> {
    temporary_file()?;
    temporary_shortage(bytes, "intermediate results").into_iter().for_each(|note| progress.note(&note));
    Ok(())
}

/// Bytes of the covariances of all sites, in f32.
pub fn covariances(model: &Model) -> u64 {
    channels(model).map(|channels| 4 * packed_length(channels) as u64).sum()
}

/// Bytes of those, where a recipe needs them again, and of the weights that it fits.
pub fn of_recipe(model: &Model, options: &PlanOptions) -> u64 {
    let writers = || channels(model).map(|channels| (channels * model.architecture.hidden_size) as u64).sum();
    let fitted = match options.recipe {
        Recipe::Flap => 0,
        Recipe::LeastSquares => writers(),
        Recipe::Sequential | Recipe::Search => model.architecture.prunable_parameters(),
    };
    let of_parameter = model.tensors.total_bytes() as f64 / model.parameters() as f64;
    let covariances = if keeps_covariances(options.recipe) { covariances(model) } else { 0 };
    covariances + ((1.0 - options.ratio) * of_parameter * fitted as f64) as u64
}

/// Channels of every site.
fn channels(model: &Model) -> impl Iterator<Item = usize> {
    (0..model.architecture.layers.len()).flat_map(|layer| Site::BOTH.map(|site| model.architecture.channels(layer, site)))
}
