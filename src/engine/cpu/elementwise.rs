//! Norms, rotations, activations and reductions: one or two passes over the data, in parallel over rows.

use super::vectors::{exp, maximum, sum, sum_of_pairs, vectorised};
use rayon::prelude::*;

/// Elements per parallel task of a flat pass.
const CHUNK: usize = 1 << 14;

pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let width = weight.len();
    let rows = (CHUNK / width).max(1) * width;
    y.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let square = sum(x, |v| v * v) / width as f32;
                    let scale = 1.0 / (square + eps).sqrt();
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                        *y = x * scale * w;
                    }
                }
            },
        );
    });
}

pub fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
    assert_eq!(x.len(), y.len(), "tensors of different sizes");
    x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y));
}

pub fn rope(x: &mut [f32], columns: usize, table: &[f32], head_dim: usize, window_tokens: usize) {
    let half = head_dim / 2;
    x.par_chunks_mut(columns).enumerate().for_each(|(token, row)| {
        let position = token % window_tokens;
        let (cos, sin) = table[position * head_dim..(position + 1) * head_dim].split_at(half);
        for head in row.chunks_exact_mut(head_dim) {
            let (first, second) = head.split_at_mut(half);
            for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    });
}

pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(gate, up)| {
        vectorised(
            #[inline(always)]
            || gate.iter_mut().zip(up).for_each(|(g, &u)| *g = *g / (1.0 + exp(-*g)) * u),
        );
    });
}

pub fn scale_columns(x: &mut [f32], mask: &[f32]) {
    x.par_chunks_mut(mask.len()).for_each(|row| row.iter_mut().zip(mask).for_each(|(x, m)| *x *= m));
}

/// `out[i][j] = x[rows[i]][columns[j]]` for `x` of rows of `width`.
pub fn gather(out: &mut [f32], (x, width): (&[f32], usize), rows: &[f32], columns: &[f32]) {
    out.par_chunks_mut(columns.len()).zip(rows).for_each(|(out, &row)| {
        let row = &x[row as usize * width..][..width];
        out.iter_mut().zip(columns).for_each(|(out, &column)| *out = row[column as usize]);
    });
}

/// `(x - shift) * scale`, with a scale for every row.
pub fn shifted(x: &[f32], shift: &[f32], scales: Option<&[f32]>, values: &mut [f32]) {
    let rows = values.par_chunks_mut(shift.len()).zip(x.par_chunks(shift.len()));
    rows.enumerate().for_each(|(row, (out, x))| {
        let scale = scales.map_or(1.0, |scales| scales[row]);
        out.iter_mut().zip(x).zip(shift).for_each(|((out, x), shift)| *out = (x - shift) * scale);
    });
}

/// `1 / |row|`, and 0 for a row of zeros.
pub fn inverse_norms(x: &[f32], columns: usize, norms: &mut [f32]) {
    let inverse = |row: &[f32]| match sum(row, |v| v * v) {
        square if square > 0.0 => 1.0 / square.sqrt(),
        _ => 0.0,
    };
    norms.par_iter_mut().zip(x.par_chunks(columns)).for_each(|(norm, row)| *norm = inverse(row));
}

pub fn is_finite(x: &[f32]) -> bool {
    !x.par_chunks(CHUNK).any(|chunk| chunk.iter().fold(false, |bad, v| bad | !v.is_finite()))
}

pub fn cross_entropy_panel(state: &mut [f32], targets: &[f32], logits: &[f32], first_entry: usize) {
    let width = logits.len() / targets.len();
    state.par_chunks_exact_mut(3).zip(targets).zip(logits.par_chunks_exact(width)).for_each(|((state, &target), logits)| {
        let (maximum, sum) = vectorised(
            #[inline(always)]
            || {
                let maximum = maximum(logits, state[0]);
                (maximum, sum(logits, |logit| exp(logit - maximum)))
            },
        );
        state[1] = state[1] * (state[0] - maximum).exp() + sum;
        state[0] = maximum;
        if let Some(logit) = (target as usize).checked_sub(first_entry).and_then(|i| logits.get(i)) {
            state[2] = *logit;
        }
    });
}

pub fn divergence_panel(sums: &mut [f32], logits: [&[f32]; 2], states: [&[f32]; 2]) {
    let width = logits[0].len() / sums.len();
    let [p, q] = logits.map(|logits| logits.par_chunks_exact(width));
    let [p_states, q_states] = states.map(|states| states.par_chunks_exact(3));
    sums.par_iter_mut().zip(p.zip(q)).zip(p_states.zip(q_states)).for_each(|((total, (p, q)), (p_state, q_state))| {
        let [p_normaliser, q_normaliser] = [p_state, q_state].map(|state| state[0] + state[1].ln());
        *total += vectorised(
            #[inline(always)]
            || {
                sum_of_pairs(p, q, |p, q| {
                    let (log_p, log_q) = (p - p_normaliser, q - q_normaliser);
                    exp(log_p) * (log_p - log_q)
                })
            },
        );
    });
}
