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

/// A curve between its points.
pub fn between(curve: &[f64], place: f64) -> f64 {
    let (whole, part) = (place.floor() as usize, place.fract());
    curve[whole] + part * (curve[(whole + 1).min(curve.len() - 1)] - curve[whole])
}

/// What layers that are all alike may keep.
pub struct Alike {
    /// Numbers of attention units.
    pub units: Vec<usize>,
    /// Parameters of one unit in every layer.
    pub unit_costs: u64,
    /// Most neurons.
    pub neurons: usize,
    /// Neurons are a multiple of this.
    pub multiple: usize,
    /// Parameters of one neuron in every layer.
    pub neuron_costs: u64,
    /// Parameters of all units and neurons there are.
    pub total: u64,
    /// Share of them that goes.
    pub ratio: f64,
}

impl Alike {
    /// The numbers of units and neurons at which `value` is largest, of those that meet the ratio. Every number of units is tried with the
    /// neurons that fill the rest of the budget, in fractions, so that none wins by rounding. Those neurons are then rounded down or up, and
    /// units make up for what that leaves or takes: whichever comes nearest to the budget.
    ///
    /// # Errors
    /// If none meets the ratio.
    pub fn best(&self, value: impl Fn(usize, f64) -> f64) -> Result<[usize; 2]> {
        let budget = (1.0 - self.ratio) * self.total as f64;
        let filled = |units: usize| (budget - (units as u64 * self.unit_costs) as f64) / self.neuron_costs as f64;
        let candidates = self.units.iter().map(|&units| (units, filled(units)));
        let possible = candidates.filter(|(_, neurons)| (1.0..=self.neurons as f64).contains(neurons));
        let valued = possible.map(|(units, neurons)| (value(units, neurons), neurons));
        // The first among equals.
        let best = valued.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let largest = self.neurons / self.multiple * self.multiple;
        let Some((_, neurons)) = best.filter(|_| largest > 0) else {
            return Err(Error::input(format!(
                "no uniform plan removes the share {}: with the numbers of heads that may stay, the neurons cannot make up the rest; try another \
                 --ratio, a smaller --round-neurons, or leave --uniform out",
                self.ratio
            )));
        };
        let multiples = neurons / self.multiple as f64;
        let nearest = multiples.round();
        let other = if nearest > multiples { multiples.floor() } else { multiples.ceil() };
        let rounded = [nearest, other].map(|count| (count as usize * self.multiple).clamp(self.multiple, largest));
        let plans = rounded.into_iter().flat_map(|neurons| self.units.iter().map(move |&units| [units, neurons]));
        let parameters = |&[units, neurons]: &[usize; 2]| units as u64 * self.unit_costs + neurons as u64 * self.neuron_costs;
        let distance = |plan: &[usize; 2]| (parameters(plan) as f64 - budget).abs();
        // The first among equals.
        Ok(plans.min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("one of them was the best"))
    }
}

/// Chooses the sizes of layers that are all alike, by the sum of the standardised scores of what they keep, each times its parameters: what
/// AL-AM's cut maximises when layers may differ.
pub fn search(problem: &Problem) -> Result<Vec<Kept>> {
    let most = |size: fn(&super::LayerScores) -> usize| problem.layers.iter().map(size).min().unwrap_or(0);
    let alike = Alike {
        units: (1..=most(|l| l.units)).filter(|&count| problem.allows_units(count)).collect(),
        unit_costs: problem.unit_parameters.iter().sum(),
        neurons: most(|l| l.mlp.len()),
        multiple: problem.round_neurons.max(1),
        neuron_costs: problem.neuron_parameters * problem.layers.len() as u64,
        total: problem.total_parameters(),
        ratio: problem.ratio,
    };
    let (units, neurons): (Vec<_>, Vec<_>) = problem.layers.iter().map(standardised).unzip();
    let unit_sums: Vec<Vec<f64>> = units.iter().map(|scores| sums(scores)).collect();
    let neuron_sums: Vec<Vec<f64>> = neurons.iter().map(|scores| sums(scores)).collect();
    let [kept_units, kept_neurons] = alike.best(|kept, filled| {
        let of_units: f64 = unit_sums.iter().zip(&problem.unit_parameters).map(|(sums, &cost)| sums[kept] * cost as f64).sum();
        let of_neurons = neuron_sums.iter().map(|sums| between(sums, filled)).sum::<f64>() * problem.neuron_parameters as f64;
        of_units + of_neurons
    })?;
    let layer = |(units, neurons): (&Vec<f64>, &Vec<f64>)| Kept {
        attention: without_lowest(units, units.len() - kept_units),
        mlp: without_lowest(neurons, neurons.len() - kept_neurons),
    };
    Ok(units.iter().zip(&neurons).map(layer).collect())
}
