//! Rounding what each layer keeps to a multiple, for hardware and quantisers that want whole blocks.

use super::{Kept, LayerScores, Problem, Structure, ascending, count};
use std::cmp::Reverse;

/// Rounds every layer's neurons and attention units. Returns what could not be rounded.
pub fn round(problem: &Problem, structure: Structure, layers: &mut [Kept]) -> Vec<String> {
    // Structures that treat all layers alike still do.
    let carries = matches!(structure, Structure::AlAm | Structure::AlMm);
    let of_units = |count: usize| problem.allows_units(count);
    let of_neurons = |count: usize| count.is_multiple_of(problem.round_neurons.max(1));
    let units = Rounding { what: "attention units", scores: LayerScores::unit_sums, kept: |kept| &mut kept.attention };
    let neurons = Rounding { what: "neurons", scores: |scores| scores.mlp.clone(), kept: |kept| &mut kept.mlp };
    let mut notes = units.round(problem, layers, carries, &of_units);
    notes.extend(neurons.round(problem, layers, carries, &of_neurons));
    notes
}

struct Rounding {
    what: &'static str,
    scores: fn(&LayerScores) -> Vec<f64>,
    kept: fn(&mut Kept) -> &mut Vec<bool>,
}

impl Rounding {
    /// Rounds one site of every layer to the nearest number that is allowed. Where layers may differ, what one gains or loses is carried to
    /// the next, so that the total stays.
    fn round(&self, problem: &Problem, layers: &mut [Kept], carries: bool, allowed: &dyn Fn(usize) -> bool) -> Vec<String> {
        let mut notes = Vec::new();
        let mut carried = 0i64;
        for (index, (kept, scores)) in layers.iter_mut().zip(&problem.layers).enumerate() {
            let (kept, scores) = ((self.kept)(kept), (self.scores)(scores));
            let found = count(kept);
            let wanted = found as i64 + carried;
            let nearest =
                (1..=scores.len()).filter(|&count| allowed(count)).min_by_key(|&count| (wanted.abs_diff(count as i64), Reverse(count)));
            let Some(rounded) = nearest else {
                notes.push(format!(
                    "layer {index}: no number of its {} {} is a multiple that was asked for; not rounded",
                    scores.len(),
                    self.what
                ));
                continue;
            };
            if carries {
                carried = wanted - rounded as i64;
            }
            if rounded != found {
                *kept = vec![false; scores.len()];
                ascending(&scores).into_iter().rev().take(rounded).for_each(|i| kept[i] = true);
            }
        }
        notes
    }
}
