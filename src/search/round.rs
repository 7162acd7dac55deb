//! Rounding the kept neurons of each layer to a multiple, for hardware and quantisers that want whole blocks.

use super::{Kept, Problem, ascending};

/// Rounds every layer's neurons to a multiple of `round_neurons`: the nearest, where what one layer gains or loses is carried to
/// the next, so that the total stays. Returns what could not be rounded.
pub fn round_neurons(problem: &Problem, layers: &mut [Kept]) -> Vec<String> {
    let multiple = problem.round_neurons;
    if multiple <= 1 {
        return Vec::new();
    }
    let mut notes = Vec::new();
    let mut carried = 0i64;
    for (index, (kept, scores)) in layers.iter_mut().zip(&problem.layers).enumerate() {
        let largest = scores.mlp.len() / multiple * multiple;
        if largest == 0 {
            notes.push(format!("layer {index}: its {} neurons are fewer than one block of {multiple}; not rounded", scores.mlp.len()));
            continue;
        }
        let wanted = kept.mlp.iter().filter(|&&k| k).count() as i64 + carried;
        let blocks = (wanted.max(0) as usize + multiple / 2) / multiple;
        let count = (blocks * multiple).clamp(multiple, largest);
        carried = wanted - count as i64;
        kept.mlp = vec![false; scores.mlp.len()];
        ascending(&scores.mlp).into_iter().rev().take(count).for_each(|i| kept.mlp[i] = true);
    }
    notes
}
