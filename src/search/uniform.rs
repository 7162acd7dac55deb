//! The best plan in which every layer keeps the same number of attention units and of neurons, for programs that know one size only.

use super::across_layers::standardised;
use super::{Kept, Problem, without_lowest};
use crate::error::{Error, Result};

/// Scores of a layer, the highest first, summed up: place `n` holds the sum of the `n` best.
fn sums(scores: &[f64]) -> Vec<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    std::iter::once(0.0)
        .chain(sorted.iter().scan(0.0, |sum, score| {
            *sum += score;
            Some(*sum)
        }))
        .collect()
}

/// Of the numbers of units that may stay, the one that comes nearest to so many parameters, each of them worth so many.
pub fn nearest_units(allowed: impl Iterator<Item = usize>, unit_costs: u64, parameters: f64) -> Option<usize> {
    let distance = |&count: &usize| ((count as u64 * unit_costs) as f64 - parameters).abs();
    allowed.min_by(|a, b| distance(a).total_cmp(&distance(b)))
}

/// Chooses, among the allowed numbers of units, the one at which the units and the neurons that fill the rest of the budget have the
/// largest sum of standardised scores, each times its parameters: what AL-AM's cut maximises when layers may differ. Neurons are
/// counted in fractions, so that no candidate wins by rounding; units then make up for what rounding them has left or taken.
pub fn search(problem: &Problem) -> Result<Vec<Kept>> {
    let most = |size: fn(&super::LayerScores) -> usize| problem.layers.iter().map(size).min().unwrap_or(0);
    let (most_units, most_neurons) = (most(|l| l.units), most(|l| l.mlp.len()));
    let layers = problem.layers.len() as f64;
    let budget = (1.0 - problem.ratio) * problem.total_parameters() as f64;
    let unit_costs: u64 = problem.unit_parameters.iter().sum();
    let (units, neurons): (Vec<_>, Vec<_>) = problem.layers.iter().map(standardised).unzip();
    let unit_sums: Vec<Vec<f64>> = units.iter().map(|scores| sums(scores)).collect();
    let neuron_sums: Vec<Vec<f64>> = neurons.iter().map(|scores| sums(scores)).collect();
    let mut best: Option<(f64, f64)> = None;
    for count in (1..=most_units).filter(|&count| problem.allows_units(count)) {
        let filled = (budget - (count as u64 * unit_costs) as f64) / problem.neuron_parameters as f64 / layers;
        if !(1.0..=most_neurons as f64).contains(&filled) {
            continue;
        }
        let (whole, part) = (filled.floor() as usize, filled.fract());
        let of_units: f64 = unit_sums.iter().zip(&problem.unit_parameters).map(|(sums, &cost)| sums[count] * cost as f64).sum();
        let neurons_of = |sums: &Vec<f64>| sums[whole] + part * (sums[(whole + 1).min(sums.len() - 1)] - sums[whole]);
        let of_neurons: f64 = neuron_sums.iter().map(neurons_of).sum::<f64>() * problem.neuron_parameters as f64;
        if best.is_none_or(|(value, _)| of_units + of_neurons > value) {
            best = Some((of_units + of_neurons, filled));
        }
    }
    let multiple = problem.round_neurons.max(1);
    let largest = most_neurons / multiple * multiple;
    let Some((_, neuron_count)) = best.filter(|_| largest > 0) else {
        return Err(Error::input(format!(
            "no uniform plan removes the share {}: with the numbers of heads that may stay, the neurons cannot make up the rest; try another \
             --ratio, a smaller --round-neurons, or leave --uniform out",
            problem.ratio
        )));
    };
    let rounded = ((neuron_count / multiple as f64).round() as usize * multiple).clamp(multiple, largest);
    let rest = budget - (rounded as u64 * problem.neuron_parameters) as f64 * layers;
    let allowed = (1..=most_units).filter(|&count| problem.allows_units(count));
    let unit_count = nearest_units(allowed, unit_costs, rest).expect("one of them was the best");
    let layer = |(units, neurons): (&Vec<f64>, &Vec<f64>)| Kept {
        attention: without_lowest(units, units.len() - unit_count),
        mlp: without_lowest(neurons, neurons.len() - rounded),
    };
    Ok(units.iter().zip(&neurons).map(layer).collect())
}
