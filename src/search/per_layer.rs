//! Structures in which every layer is searched alone: UL-UM and UL-MM.

use super::{Kept, LayerScores, Problem, ascending, without_lowest};
use crate::error::{Error, Result};

/// Removes the `count` lowest, fewer than all; in strict mode not what ties with the lowest that stays.
fn cut(scores: &[f64], count: usize, strict: bool) -> Vec<bool> {
    if !strict {
        return without_lowest(scores, count);
    }
    let threshold = scores[ascending(scores)[count]];
    scores.iter().map(|&score| score >= threshold).collect()
}

/// UL-UM for one layer: the lowest `floor(ratio * count)` units and neurons go, where `strict` but for ties.
#[must_use]
pub fn uniform_layer(scores: &LayerScores, ratio: f64, strict: bool) -> Kept {
    let keep = |scores: &[f64]| {
        let count = (ratio * scores.len() as f64) as usize;
        cut(scores, count.min(scores.len() - 1), strict)
    };
    Kept { attention: keep(&scores.unit_sums()), mlp: keep(&scores.mlp) }
}

/// UL-MM: an equal number of attention units from each layer, then neurons up to the ratio.
pub fn manual(problem: &Problem) -> Result<Vec<Kept>> {
    let units = problem.remove_units / problem.layers.len();
    let layer = |(index, scores): (usize, &LayerScores)| {
        if units >= scores.units {
            return Err(Error::input(format!(
                "layer {index}: {units} attention units are to go, but it has {}; give a smaller --remove-heads",
                scores.units
            )));
        }
        let wanted = problem.ratio * problem.layer_parameters(index) as f64;
        let neurons = neurons_to_remove(wanted, units as u64 * problem.unit_parameters[index], problem, scores.mlp.len())?;
        Ok(Kept { attention: cut(&scores.unit_sums(), units, problem.strict), mlp: cut(&scores.mlp, neurons, problem.strict) })
    };
    problem.layers.iter().enumerate().map(layer).collect()
}

/// Neurons that must go so that `wanted` parameters go in all, when `by_attention` parameters go by attention units.
pub fn neurons_to_remove(wanted: f64, by_attention: u64, problem: &Problem, available: usize) -> Result<usize> {
    let rest = (wanted - by_attention as f64) / problem.neuron_parameters as f64;
    if rest < 0.0 || rest >= available as f64 {
        let advice = if rest < 0.0 { "smaller" } else { "larger" };
        return Err(Error::input(format!(
            "the ratio {} cannot be met with {} attention units removed; give a {advice} --remove-heads",
            problem.ratio, problem.remove_units
        )));
    }
    Ok(rest as usize)
}
