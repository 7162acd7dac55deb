//! What each case computes: on an engine, and by its definition in f64.

use super::cases::Case;
use crate::support::noise;
use Case::*;
use flap_gpu::engine::{AttentionShape, Engine, negative_log_likelihood};
use flap_gpu::tensor::{Dtype, HostTensor, narrowed, widen};

impl Case {
    /// Bound of the normalised squared error. f32 rounds by 6e-8, squared 3.6e-15; a sum of n terms in some order gathers at most
    /// about n of these squares. exp and division of GPU drivers may be wrong by several units in the last place.
    pub fn tolerance(&self) -> f64 {
        const ROUNDING: f64 = 3.6e-15;
        match *self {
            Linear { inputs, .. } => ROUNDING * (inputs + 4) as f64,
            RmsNorm { width, .. } => ROUNDING * (width + 8) as f64,
            Attention { shape, .. } => ROUNDING * (16 * (shape.head_dim + shape.window_tokens)) as f64,
            ColumnNorms { rows, .. } => ROUNDING * (rows + 4) as f64,
            CrossEntropy { vocabulary, .. } => ROUNDING * (16 * vocabulary) as f64,
            // Logarithms of size 40 are rounded, and the exponential makes a relative error of it.
            Divergence { vocabulary, .. } => ROUNDING * (40 * 40 + 16 * vocabulary) as f64,
            Add { .. } | ScaleColumns { .. } => ROUNDING,
            Gather { .. } => 0.0,
            InverseNorms { columns, .. } => ROUNDING * (columns + 8) as f64,
            Cross { tokens, .. } => ROUNDING * (tokens + 8) as f64,
            Rope { .. } | Shifted { .. } => 4.0 * ROUNDING,
            Swiglu { .. } => 64.0 * ROUNDING,
        }
    }

    pub fn run<E: Engine>(&self, engine: &E) -> Vec<f32> {
        let up = |seed: u64, rows: usize, columns: usize| engine.upload(&noise(seed, rows * columns), columns).unwrap();
        let down = |tensor: &E::Tensor| engine.download(tensor).unwrap();
        match *self {
            Linear { tokens, inputs, outputs, dtype, bias } => {
                let weight = engine.upload_matrix(&matrix(2, outputs, inputs, dtype)).unwrap();
                let bias = bias.then(|| up(3, 1, outputs));
                down(&engine.linear(&up(1, tokens, inputs), &weight, bias.as_ref()).unwrap())
            }
            RmsNorm { rows, columns, width } => down(&engine.rms_norm(&up(1, rows, columns), &up(2, 1, width), 1e-5).unwrap()),
            Rope { windows, window_tokens, heads, head_dim } => {
                let mut x = up(1, windows * window_tokens, heads * head_dim);
                engine.rope(&mut x, &up(2, window_tokens, head_dim), window_tokens).unwrap();
                down(&x)
            }
            Attention { windows, shape } => {
                let tokens = windows * shape.window_tokens;
                let part = |seed, heads: usize| up(seed, tokens, heads * shape.head_dim);
                let (q, k, v) = (part(1, shape.heads), part(2, shape.key_value_heads), part(3, shape.key_value_heads));
                down(&engine.attention(&q, &k, &v, shape).unwrap())
            }
            Add { rows, columns, factor } => {
                let mut x = up(1, rows, columns);
                engine.add_scaled(&mut x, &up(2, rows, columns), factor).unwrap();
                down(&x)
            }
            Cross { tokens, a, first, columns, b } => {
                let symmetric = b == 0;
                let left = up(1, tokens, a);
                let right = (!symmetric).then(|| up(3, tokens, b));
                // A symmetric sum need not be wider than its last row's diagonal.
                let width = if symmetric { first + columns } else { b };
                let mut sum = up(5, columns, width);
                engine.add_cross(&mut sum, &left, first..first + columns, right.as_ref().unwrap_or(&left), symmetric).unwrap();
                below_diagonal(down(&sum), width, first, symmetric)
            }
            Shifted { rows, columns, scaled } => {
                let scales = scaled.then(|| up(3, rows, 1));
                down(&engine.shifted(&up(1, rows, columns), &up(2, 1, columns), scales.as_ref()).unwrap())
            }
            InverseNorms { rows, columns } => down(&engine.inverse_norms(&up(1, rows, columns)).unwrap()),
            Swiglu { rows, columns } => {
                let mut gate = up(1, rows, columns);
                engine.swiglu(&mut gate, &up(2, rows, columns)).unwrap();
                down(&gate)
            }
            ScaleColumns { rows, columns } => {
                let mut x = up(1, rows, columns);
                engine.scale_columns(&mut x, &up(2, 1, columns)).unwrap();
                down(&x)
            }
            Gather { rows, columns, first } => {
                let [picked_rows, picked] = gathered(rows, columns);
                let places = |places: &[usize]| engine.upload(&places.iter().map(|&p| p as f32).collect::<Vec<_>>(), 1).unwrap();
                let mut y = up(2, first + picked_rows.len(), picked.len());
                engine.gather(&mut y, first, &up(1, rows, columns), &places(&picked_rows), &places(&picked)).unwrap();
                down(&y)
            }
            ColumnNorms { rows, columns, dtype } => {
                let norms = engine.column_norms(&engine.upload_matrix(&matrix(1, rows, columns, dtype)).unwrap()).unwrap();
                [norms.square_sum, norms.absolute_mean].concat()
            }
            CrossEntropy { tokens, vocabulary, panel } => {
                let state = cross_entropy(engine, 1, tokens, vocabulary, panel);
                negative_log_likelihood(&down(&state)).into_iter().map(|loss| loss as f32).collect()
            }
            Divergence { tokens, vocabulary, panel } => {
                let states = [1, 2].map(|seed| cross_entropy(engine, seed, tokens, vocabulary, panel));
                let mut sums = engine.zeros(tokens, 1).unwrap();
                let panels = [1, 2].map(|seed| logit_panels(engine, seed, tokens, vocabulary, panel));
                for ((_, p), (_, q)) in panels[0].iter().zip(&panels[1]) {
                    engine.divergence_panel(&mut sums, [p, q], [&states[0], &states[1]]).unwrap();
                }
                down(&sums)
            }
        }
    }

    /// The same from the definition, in f64.
    pub fn reference(&self) -> Vec<f64> {
        let wide = |seed: u64, count: usize| -> Vec<f64> { noise(seed, count).into_iter().map(f64::from).collect() };
        match *self {
            Linear { tokens, inputs, outputs, dtype, bias } => {
                linear_reference(&wide(1, tokens * inputs), &values_of(&matrix(2, outputs, inputs, dtype)), inputs, bias)
            }
            RmsNorm { rows, columns, width } => {
                let weight = wide(2, width);
                let norm = |run: &[f64]| {
                    let scale = 1.0 / (run.iter().map(|v| v * v).sum::<f64>() / width as f64 + 1e-5).sqrt();
                    run.iter().zip(&weight).map(|(v, w)| v * scale * w).collect::<Vec<_>>()
                };
                wide(1, rows * columns).chunks_exact(width).flat_map(norm).collect()
            }
            Rope { windows, window_tokens, heads, head_dim } => {
                let (mut x, table, half) =
                    (wide(1, windows * window_tokens * heads * head_dim), wide(2, window_tokens * head_dim), head_dim / 2);
                for (index, head) in x.chunks_exact_mut(head_dim).enumerate() {
                    let angles = &table[index / heads % window_tokens * head_dim..][..head_dim];
                    for i in 0..half {
                        let (a, b, c, s) = (head[i], head[half + i], angles[i], angles[half + i]);
                        (head[i], head[half + i]) = (a * c - b * s, b * c + a * s);
                    }
                }
                x
            }
            Attention { windows, shape } => attention_reference(windows, shape),
            Add { rows, columns, factor } => {
                wide(1, rows * columns).iter().zip(wide(2, rows * columns)).map(|(a, b)| a + f64::from(factor) * b).collect()
            }
            Cross { tokens, a, first, columns, b } => {
                let symmetric = b == 0;
                let (width, right_columns) = if symmetric { (first + columns, a) } else { (b, b) };
                let left = wide(1, tokens * a);
                let right = if symmetric { left.clone() } else { wide(3, tokens * b) };
                let dot = |i: usize, j: usize| (0..tokens).map(|t| left[t * a + first + i] * right[t * right_columns + j]).sum::<f64>();
                let mut sum = wide(5, columns * width);
                sum.iter_mut().enumerate().for_each(|(place, value)| *value += dot(place / width, place % width));
                below_diagonal(sum, width, first, symmetric)
            }
            Shifted { rows, columns, scaled } => {
                let scale = |row: usize| if scaled { wide(3, rows)[row] } else { 1.0 };
                let shifted = wide(1, rows * columns).into_iter().zip(wide(2, columns).into_iter().cycle()).map(|(x, s)| x - s);
                shifted.enumerate().map(|(place, value)| value * scale(place / columns)).collect()
            }
            InverseNorms { rows, columns } => {
                wide(1, rows * columns).chunks_exact(columns).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt().recip()).collect()
            }
            Swiglu { rows, columns } => {
                wide(1, rows * columns).iter().zip(wide(2, rows * columns)).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            }
            ScaleColumns { rows, columns } => {
                wide(1, rows * columns).iter().zip(wide(2, columns).iter().cycle()).map(|(a, b)| a * b).collect()
            }
            Gather { rows, columns, first } => {
                let [picked_rows, picked] = gathered(rows, columns);
                let (x, mut y) = (wide(1, rows * columns), wide(2, (first + picked_rows.len()) * picked.len()));
                y.truncate(first * picked.len());
                picked_rows.iter().for_each(|row| y.extend(picked.iter().map(|column| x[row * columns + column])));
                y
            }
            ColumnNorms { rows, columns, dtype } => {
                let w = values_of(&matrix(1, rows, columns, dtype));
                let column = |j: usize| w.iter().skip(j).step_by(columns);
                let squares = (0..columns).map(|j| column(j).map(|v| v * v).sum::<f64>());
                squares.chain((0..columns).map(|j| column(j).map(|v| v.abs()).sum::<f64>() / rows as f64)).collect()
            }
            CrossEntropy { tokens, vocabulary, .. } => {
                let logits = widened(&logits(1, tokens * vocabulary));
                let loss = |(row, target): (&[f64], u32)| row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[target as usize];
                logits.chunks_exact(vocabulary).zip(targets(tokens, vocabulary)).map(loss).collect()
            }
            Divergence { tokens, vocabulary, .. } => {
                let [p, q] = [1, 2].map(|seed| widened(&logits(seed, tokens * vocabulary)));
                let log_softmax = |row: &[f64]| {
                    let normaliser = row.iter().map(|l| l.exp()).sum::<f64>().ln();
                    row.iter().map(|l| l - normaliser).collect::<Vec<_>>()
                };
                let divergence = |(p, q): (&[f64], &[f64])| -> f64 {
                    log_softmax(p).iter().zip(log_softmax(q)).map(|(log_p, log_q)| log_p.exp() * (log_p - log_q)).sum()
                };
                p.chunks_exact(vocabulary).zip(q.chunks_exact(vocabulary)).map(divergence).collect()
            }
        }
    }
}

fn attention_reference(windows: usize, shape: AttentionShape) -> Vec<f64> {
    let AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } = shape;
    let tokens = windows * window_tokens;
    let part = |seed: u64, heads: usize| noise(seed, tokens * heads * head_dim);
    let (q, k, v) = (part(1, heads), part(2, key_value_heads), part(3, key_value_heads));
    let mut output = vec![0.0; tokens * heads * head_dim];
    for token in 0..tokens {
        let first = (token / window_tokens * window_tokens).max((token + 1).saturating_sub(sliding_window.unwrap_or(usize::MAX)));
        for head in 0..heads {
            let kv_head = head / (heads / key_value_heads);
            let row = |x: &[f32], token: usize, head: usize, heads: usize| -> Vec<f64> {
                x[(token * heads + head) * head_dim..][..head_dim].iter().map(|&v| f64::from(v)).collect()
            };
            let query = row(&q, token, head, heads);
            let score = |key: usize| {
                let dot: f64 = query.iter().zip(row(&k, key, kv_head, key_value_heads)).map(|(a, b)| a * b).sum();
                (dot / (head_dim as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (first..=token).map(score).collect();
            let sum: f64 = scores.iter().sum();
            let out = &mut output[(token * heads + head) * head_dim..][..head_dim];
            for (key, score) in (first..=token).zip(scores) {
                out.iter_mut().zip(row(&v, key, kv_head, key_value_heads)).for_each(|(o, v)| *o += score / sum * v);
            }
        }
    }
    output
}

/// Of a symmetric sum only the lower triangle counts.
fn below_diagonal<T: Default>(mut sum: Vec<T>, width: usize, first: usize, symmetric: bool) -> Vec<T> {
    let beyond = |place: usize| symmetric && place % width > first + place / width;
    sum.iter_mut().enumerate().filter(|(place, _)| beyond(*place)).for_each(|(_, value)| *value = T::default());
    sum
}

fn logits(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|value| value * 20.0).collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Logits panel by panel, with the first entry of each.
fn logit_panels<E: Engine>(engine: &E, seed: u64, tokens: usize, vocabulary: usize, panel: usize) -> Vec<(usize, E::Tensor)> {
    let logits = logits(seed, tokens * vocabulary);
    let of = |first: usize| {
        let width = panel.min(vocabulary - first);
        let part: Vec<f32> = logits.chunks_exact(vocabulary).flat_map(|row| &row[first..first + width]).copied().collect();
        (first, engine.upload(&part, width).unwrap())
    };
    (0..vocabulary).step_by(panel).map(of).collect()
}

/// Rows and columns that are picked.
fn gathered(rows: usize, columns: usize) -> [Vec<usize>; 2] {
    [(0..rows).rev().step_by(3).collect(), (0..columns).step_by(2).collect()]
}

/// The state of the cross entropy of all panels.
fn cross_entropy<E: Engine>(engine: &E, seed: u64, tokens: usize, vocabulary: usize, panel: usize) -> E::Tensor {
    let mut state = engine.cross_entropy(&targets(tokens, vocabulary)).unwrap();
    for (first, logits) in logit_panels(engine, seed, tokens, vocabulary, panel) {
        engine.cross_entropy_panel(&mut state, &logits, first).unwrap();
    }
    state.state
}

fn targets(tokens: usize, vocabulary: usize) -> Vec<u32> {
    (0..tokens).map(|t| ((t * 37 + 5) % vocabulary) as u32).collect()
}

pub fn matrix(seed: u64, rows: usize, columns: usize, dtype: Dtype) -> HostTensor {
    HostTensor::owning(narrowed(dtype, &noise(seed, rows * columns)).expect("small numbers"), dtype, rows, columns)
}

/// `x W^T`, plus the bias that a case with one has.
pub fn linear_reference(x: &[f64], weight: &[f64], inputs: usize, bias: bool) -> Vec<f64> {
    let outputs = weight.len() / inputs;
    let bias = if bias { noise(3, outputs).into_iter().map(f64::from).collect() } else { vec![0.0; outputs] };
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
    x.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).zip(&bias).map(|(w, b)| dot(x, w) + b).collect::<Vec<_>>()).collect()
}

/// The numbers a matrix holds after rounding to its format.
pub fn values_of(matrix: &HostTensor) -> Vec<f64> {
    let mut values = vec![0.0; matrix.rows * matrix.columns];
    widen(matrix.dtype, matrix.bytes.as_ref(), &mut values);
    values.into_iter().map(f64::from).collect()
}
