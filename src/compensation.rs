//! Bias compensation: the mean of what the removed channels P added to a projection's output, `b = W[:, P] mean(x_P)`.

use crate::architecture::{PerSite, Site};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::Model;
use crate::plan::{Compensation, Plan};
use crate::progress::Progress;
use crate::statistics::Statistics;

/// Biases of a layer's two projections `[hidden]`, to be added to those that they have; `None` where nothing was removed.
pub type LayerBiases = PerSite<Option<Vec<f32>>>;

/// The biases that a plan's removals call for, computed by the engine. None in any layer where the plan has no compensation.
pub fn biases<E: Engine>(
    engine: &E,
    model: &Model,
    statistics: Option<&Statistics>,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Vec<LayerBiases>> {
    let count = model.architecture.layers.len();
    if plan.settings.compensation == Compensation::None {
        return Ok(vec![LayerBiases::default(); count]);
    }
    let Some(statistics) = statistics else {
        return Err(Error::input("the plan compensates with biases, which need the statistics: give --statistics"));
    };
    progress.start("compensating", "layers", count as u64);
    let head_dim = model.architecture.head_dim;
    let mut result = Vec::with_capacity(count);
    for (layer, planned) in plan.layers.iter().enumerate() {
        interrupt::check()?;
        let bias = |site: Site| -> Result<Option<Vec<f32>>> {
            let (kept, channels_per_unit) = match site {
                Site::Attention => (&planned.heads, head_dim),
                Site::Mlp => (&planned.neurons, 1),
            };
            let mean = statistics.layers[layer][site].mean();
            if kept.len() * channels_per_unit == mean.len() {
                return Ok(None);
            }
            let mut removed: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
            for unit in kept {
                removed[unit * channels_per_unit..(unit + 1) * channels_per_unit].fill(0.0);
            }
            let matrix = model.part(layer, site.writer().0)?;
            let input = engine.upload(&removed, removed.len())?;
            let bias = engine.download(&engine.linear(&input, &engine.upload_matrix(&matrix)?, None)?)?;
            if bias.iter().any(|b| !b.is_finite()) {
                return Err(Error::NotFinite(format!(
                    "NaN or infinity in the compensation bias of layer {layer} ({}): in `{}`, or in the statistics",
                    site.name(),
                    site.writer().0.name(layer)
                )));
            }
            Ok(Some(bias))
        };
        result.push(LayerBiases::try_from_fn(bias)?);
        progress.advance(1);
    }
    progress.finish();
    Ok(result)
}
