//! Structures in which the units of all layers compete on standardised scores: AL-MM and AL-AM.

use super::per_layer::neurons_to_remove;
use super::{Kept, LayerScores, Problem, best, count, without_lowest};
use crate::error::{Error, Result};

/// `(s - mean) / std`, with `n - 1`; all zero where all scores are equal.
fn standardise(scores: &[f64]) -> Vec<f64> {
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (count - 1.0).max(1.0);
    let scale = if variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 };
    scores.iter().map(|s| (s - mean) * scale).collect()
}

/// A layer's standardised scores: the mean over the channels of each attention unit, and per neuron.
pub fn standardised(scores: &LayerScores) -> (Vec<f64>, Vec<f64>) {
    let channels = LayerScores { attention: standardise(&scores.attention), mlp: Vec::new(), units: scores.units };
    let units = channels.unit_channels().map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
    (units, standardise(&scores.mlp))
}

/// Cuts a flat list of kept flags back into layers.
fn into_layers(problem: &Problem, attention: &[bool], mlp: &[bool]) -> Vec<Kept> {
    let (mut attention, mut mlp) = (attention.iter().copied(), mlp.iter().copied());
    let layer = |scores: &LayerScores| Kept {
        attention: attention.by_ref().take(scores.units).collect(),
        mlp: mlp.by_ref().take(scores.mlp.len()).collect(),
    };
    problem.layers.iter().map(layer).collect()
}

/// AL-MM: the `remove_units` lowest attention units of all layers go, then neurons of all layers up to the ratio. What stays although its
/// score would remove it is said in `notes`.
pub fn manual(problem: &Problem, notes: &mut Vec<String>) -> Result<Vec<Kept>> {
    let (units, neurons): (Vec<_>, Vec<_>) = problem.layers.iter().map(standardised).unzip();
    let (units, neurons) = (units.concat(), neurons.concat());
    if problem.remove_units >= units.len() {
        return Err(Error::input(format!("--remove-heads leaves no attention: the model has {} attention units", units.len())));
    }
    let attention = cut(problem, &units, problem.remove_units);
    let mut layers = into_layers(problem, &attention, &vec![true; neurons.len()]);
    // What the removed units hold is counted one by one: layers may differ in size, and keep their last unit. The authors' code counts the
    // requested number.
    let by_attention = if problem.strict {
        problem.remove_units as u64 * problem.unit_parameters[0]
    } else {
        notes.extend(problem.keep_one(&mut layers));
        layers.iter().zip(&problem.unit_parameters).map(|(kept, &unit)| (kept.attention.len() - count(&kept.attention)) as u64 * unit).sum()
    };
    let wanted = problem.ratio * problem.total_parameters() as f64;
    let removed = neurons_to_remove(wanted, by_attention, problem, neurons.len())?;
    let attention = layers.into_iter().flat_map(|kept| kept.attention).collect::<Vec<_>>();
    Ok(into_layers(problem, &attention, &cut(problem, &neurons, removed)))
}

/// Removes the `count` lowest; in strict mode also what ties with the last of them.
fn cut(problem: &Problem, scores: &[f64], count: usize) -> Vec<bool> {
    if !problem.strict || count == 0 {
        return without_lowest(scores, count);
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    scores.iter().map(|&s| s > sorted[count - 1]).collect()
}

/// One competitor of AL-AM.
struct Candidate {
    score: f64,
    /// In neurons.
    cost: f64,
    /// The best of its layer and site, which stays in any case.
    forced: bool,
}

/// AL-AM: attention units and neurons of all layers in one list. The place is sought up to which the cost of what stays is nearest to the
/// budget; what stands at it goes as well, as in the authors' code.
pub fn adaptive(problem: &Problem) -> Vec<Kept> {
    let (units, neurons): (Vec<_>, Vec<_>) = problem.layers.iter().map(standardised).unzip();
    let mut candidates = Vec::new();
    for (scores, &parameters) in units.iter().zip(&problem.unit_parameters) {
        let cost = parameters as f64 / problem.neuron_parameters as f64;
        let cost = if problem.strict { cost.trunc() } else { cost };
        let best = best(scores);
        candidates.extend(scores.iter().enumerate().map(|(i, &score)| Candidate { score, cost, forced: i == best && !problem.strict }));
    }
    let unit_count = candidates.len();
    for scores in &neurons {
        let best = best(scores);
        candidates.extend(scores.iter().enumerate().map(|(i, &score)| Candidate {
            score,
            cost: 1.0,
            forced: i == best && !problem.strict,
        }));
    }
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&candidates[a], &candidates[b]);
        b.forced.cmp(&a.forced).then(b.score.total_cmp(&a.score))
    });
    let total: f64 = candidates.iter().map(|c| c.cost).sum();
    let budget = (1.0 - problem.ratio) * total;
    let mut spent = 0.0;
    let mut nearest = (f64::INFINITY, 0);
    for (place, &index) in order.iter().enumerate() {
        spent += candidates[index].cost;
        let distance = (spent - budget).abs();
        if distance < nearest.0 {
            nearest = (distance, place);
        }
    }
    let threshold = candidates[order[nearest.1]].score;
    let mut kept: Vec<bool> = candidates.iter().map(|c| problem.strict && c.score > threshold).collect();
    if !problem.strict {
        let forced = candidates.iter().filter(|c| c.forced).count();
        order.iter().take(nearest.1.max(forced)).for_each(|&index| kept[index] = true);
    }
    into_layers(problem, &kept[..unit_count], &kept[unit_count..])
}
