//! What a recipe will put into temporary files, said before it begins rather than hours later.

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

/// Bytes of what a recipe keeps at a time: covariances, where it needs them again, and the weights that it fits.
pub fn of_recipe(model: &Model, options: &PlanOptions) -> u64 {
    let of_parameter = (1.0 - options.ratio) * model.tensors.total_bytes() as f64 / model.parameters() as f64;
    let writers = channels(model).map(|channels| (channels * model.architecture.hidden_size) as u64).sum::<u64>() as f64 * of_parameter;
    let fitted = model.architecture.prunable_parameters() as f64 * of_parameter;
    let covariances = covariances(model) as f64;
    let bytes = match options.recipe {
        Recipe::Flap => 0.0,
        Recipe::LeastSquares => covariances + writers,
        Recipe::Sequential => fitted,
        // Of every site, the weights of a round and those that it tries; once it knows how many units go, those that it ends with.
        Recipe::Search => (covariances + 2.0 * writers).max(fitted),
    };
    bytes as u64
}

/// Channels of every site.
fn channels(model: &Model) -> impl Iterator<Item = usize> {
    (0..model.architecture.layers.len()).flat_map(|layer| Site::BOTH.map(|site| model.architecture.channels(layer, site)))
}
