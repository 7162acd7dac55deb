//! Causal grouped-query attention, one window and head a task; scores exist for one block of queries and of keys at a time.

use super::linear::SharedOutput;
use super::product::product;
use super::vectors::{exp, maximum, sum, vectorised};
use crate::engine::AttentionShape;
use crate::error::Result;
use crate::interrupt;
use faer::Accum;
use faer::mat::{MatMut, MatRef};
use faer::reborrow::ReborrowMut;
use rayon::prelude::*;
use std::ops::Range;

/// Queries and keys whose scores are held at once, by each thread: 1 MiB of f32 for windows of any length.
const QUERY_BLOCK: usize = 128;
const KEY_BLOCK: usize = 2048;

/// `q [tokens, heads * head_dim]`, `k` and `v` `[tokens, key_value_heads * head_dim]` to `output [tokens, heads * head_dim]`; fails when
/// interrupted.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape, output: &mut [f32]) -> Result<()> {
    let AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } = shape;
    let (q_columns, kv_columns) = (heads * head_dim, key_value_heads * head_dim);
    let windows = q.len() / (q_columns * window_tokens);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let reach = sliding_window.unwrap_or(window_tokens);
    assert!(q.len() == windows * window_tokens * q_columns && output.len() == q.len(), "tokens do not fit the windows");
    let out = SharedOutput(output.as_mut_ptr());
    // A view of `rows` tokens of one head inside row-major activations.
    let head_view = |data, columns: usize, token: usize, head: usize, rows: usize| {
        let data: &[f32] = data;
        let start = token * columns + head * head_dim;
        assert!(start + (rows - 1) * columns + head_dim <= data.len(), "head outside the activations");
        // SAFETY: the assertion above bounds the last element; the view borrows nothing mutable.
        unsafe { MatRef::from_raw_parts(data[start..].as_ptr(), rows, head_dim, columns as isize, 1) }
    };
    (0..windows * heads).into_par_iter().for_each_init(Vec::new, |scores: &mut Vec<f32>, task| {
        let (first_token, head) = (task / heads * window_tokens, task % heads);
        let kv_head = head / (heads / key_value_heads);
        for block in (0..window_tokens).step_by(QUERY_BLOCK) {
            let queries = QUERY_BLOCK.min(window_tokens - block);
            let q_view = head_view(q, q_columns, first_token + block, head, queries);
            let start = (first_token + block) * q_columns + head * head_dim;
            // SAFETY: this task alone writes this head's channels of these tokens; `output` outlives the loop.
            let mut o = unsafe { MatMut::from_raw_parts_mut(out.at(start), queries, head_dim, q_columns as isize, 1) };
            let mut rows = [Softmax::NOTHING; QUERY_BLOCK];
            let reached = (block + 1).saturating_sub(reach);
            for first_key in (reached..block + queries).step_by(KEY_BLOCK) {
                // A very long window takes minutes.
                if interrupt::check().is_err() {
                    return;
                }
                let keys = KEY_BLOCK.min(block + queries - first_key);
                scores.resize(queries * keys, 0.0);
                let s = MatMut::from_row_major_slice_mut(scores, queries, keys);
                let k_view = head_view(k, kv_columns, first_token + first_key, kv_head, keys);
                product(s, Accum::Replace, q_view, k_view.transpose(), scale);
                vectorised(
                    #[inline(always)]
                    || {
                        for (i, (row, scores)) in rows.iter_mut().zip(scores.chunks_exact_mut(keys)).enumerate() {
                            let place = |key: usize| key.saturating_sub(first_key).min(keys);
                            row.take(scores, place((block + i + 1).saturating_sub(reach))..place(block + i + 1));
                        }
                    },
                );
                let accumulate = if first_key == reached {
                    Accum::Replace
                } else {
                    scale_rows(o.rb_mut(), rows.iter().map(|row| row.shrink));
                    Accum::Add
                };
                let s = MatRef::from_row_major_slice(scores, queries, keys);
                product(o.rb_mut(), accumulate, s, head_view(v, kv_columns, first_token + first_key, kv_head, keys), 1.0);
            }
            scale_rows(o, rows.iter().map(|row| 1.0 / row.total));
        }
    });
    interrupt::check()
}

fn scale_rows(mut matrix: MatMut<'_, f32>, factors: impl Iterator<Item = f32>) {
    for (row, factor) in (0..matrix.nrows()).zip(factors) {
        let row = matrix.rb_mut().row_mut(row).try_as_row_major_mut().expect("a row lies in one piece");
        row.as_slice_mut().iter_mut().for_each(|value| *value *= factor);
    }
}

/// The softmax of a query, over the keys that it has met.
#[derive(Clone, Copy)]
struct Softmax {
    /// The largest score.
    largest: f32,
    /// The sum of exponentials relative to it.
    total: f32,
    /// By this, what was summed before the last keys is to be multiplied, because the largest score has changed.
    shrink: f32,
}

impl Softmax {
    const NOTHING: Self = Self { largest: f32::NEG_INFINITY, total: 0.0, shrink: 0.0 };

    /// Turns the scores of the next keys into exponentials relative to the largest so far, those of keys that are not visible into 0; and what
    /// is so far below the largest that it changes no sum: numbers below f32's normal ones would slow the product with the values down
    /// several times.
    #[inline(always)]
    fn take(&mut self, scores: &mut [f32], visible: Range<usize>) {
        const LEAST: f32 = -70.0;
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        let scores = &mut scores[visible];
        let before = self.largest;
        self.largest = maximum(scores, before);
        scores.iter_mut().for_each(|score| {
            let below = *score - self.largest;
            *score = if below < LEAST { 0.0 } else { exp(below) };
        });
        // Where no key was visible before, there is nothing to shrink.
        self.shrink = if before == f32::NEG_INFINITY { 0.0 } else { exp(before - self.largest) };
        self.total = self.total * self.shrink + sum(scores, |score| score);
    }
}
