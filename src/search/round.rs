//! Rounding what each layer keeps to a multiple, for hardware and quantisers that want whole blocks.

use super::{Kept, LayerScores, Problem, ascending};

/// Rounds every layer's neurons and attention units. Returns what could not be rounded.
pub fn round(problem: &Problem, layers: &mut [Kept]) -> Vec<String> {
    let mut notes = site(problem, problem.round_units, "attention units", LayerScores::unit_sums, layers, |kept| &mut kept.attention);
    notes.extend(site(problem, problem.round_neurons, "neurons", |scores| scores.mlp.clone(), layers, |kept| &mut kept.mlp));
    notes
}

/// Rounds one site of every layer to the nearest multiple, where what one layer gains or loses is carried to the next, so that the
/// total stays.
fn site(
    problem: &Problem,
    multiple: usize,
    what: &str,
    scores_of: fn(&LayerScores) -> Vec<f64>,
    layers: &mut [Kept],
    flags: fn(&mut Kept) -> &mut Vec<bool>,
) -> Vec<String> {
    if multiple <= 1 {
        return Vec::new();
    }
    let mut notes = Vec::new();
    let mut carried = 0i64;
    for (index, (kept, scores)) in layers.iter_mut().zip(&problem.layers).enumerate() {
        let (kept, scores) = (flags(kept), scores_of(scores));
        let largest = scores.len() / multiple * multiple;
        if largest == 0 {
            notes.push(format!("layer {index}: its {} {what} are fewer than one block of {multiple}; not rounded", scores.len()));
            continue;
        }
        let wanted = kept.iter().filter(|&&k| k).count() as i64 + carried;
        let blocks = (wanted.max(0) as usize + multiple / 2) / multiple;
        let count = (blocks * multiple).clamp(multiple, largest);
        carried = wanted - count as i64;
        *kept = vec![false; scores.len()];
        ascending(&scores).into_iter().rev().take(count).for_each(|i| kept[i] = true);
    }
    notes
}
