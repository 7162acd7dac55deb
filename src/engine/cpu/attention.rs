//! Causal grouped-query attention, one window and head a task; scores exist for one block of queries at a time.

use super::linear::SharedOutput;
use super::product::product;
use super::vectors::{exp, maximum, sum, vectorised};
use crate::engine::AttentionShape;
use crate::error::Result;
use crate::interrupt;
use faer::Accum;
use faer::mat::{MatMut, MatRef};
use rayon::prelude::*;

/// Queries whose scores are held at once; `[128, keys]` f32 for 4096 keys is 2 MiB.
const QUERY_BLOCK: usize = 128;

/// `q [tokens, heads * head_dim]`, `k` and `v` `[tokens, key_value_heads * head_dim]` to `[tokens, heads * head_dim]`; fails when interrupted.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], shape: AttentionShape) -> Result<Vec<f32>> {
    let AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } = shape;
    let (q_columns, kv_columns) = (heads * head_dim, key_value_heads * head_dim);
    let windows = q.len() / (q_columns * window_tokens);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let reach = sliding_window.unwrap_or(window_tokens);
    let mut output = vec![0.0f32; q.len()];
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
            // A very long window takes minutes.
            if interrupt::check().is_err() {
                return;
            }
            let queries = QUERY_BLOCK.min(window_tokens - block);
            let first_key = (block + 1).saturating_sub(reach);
            let keys = block + queries - first_key;
            scores.resize(queries * keys, 0.0);
            let s = MatMut::from_row_major_slice_mut(&mut scores[..queries * keys], queries, keys);
            let q_view = head_view(q, q_columns, first_token + block, head, queries);
            let k_view = head_view(k, kv_columns, first_token + first_key, kv_head, keys);
            product(s, Accum::Replace, q_view, k_view.transpose(), scale);
            vectorised(
                #[inline(always)]
                || {
                    for (i, row) in scores.chunks_exact_mut(keys).take(queries).enumerate() {
                        let query = block + i;
                        let visible = (query + 1).saturating_sub(reach) - first_key..query + 1 - first_key;
                        softmax(row, visible);
                    }
                },
            );
            let s = MatRef::from_row_major_slice(&scores[..queries * keys], queries, keys);
            let v_view = head_view(v, kv_columns, first_token + first_key, kv_head, keys);
            let start = (first_token + block) * q_columns + head * head_dim;
            // SAFETY: this task alone writes this head's channels of these tokens; `output` outlives the loop.
            let o = unsafe { MatMut::from_raw_parts_mut(out.at(start), queries, head_dim, q_columns as isize, 1) };
            product(o, Accum::Replace, s, v_view, 1.0);
        }
    });
    interrupt::check()?;
    Ok(output)
}

/// Softmax over the visible keys of one row; all others become 0, and what is so far below the largest that it changes no sum: numbers
/// below f32's normal ones would slow the product with the values down several times.
#[inline(always)]
fn softmax(row: &mut [f32], visible: std::ops::Range<usize>) {
    const LEAST: f32 = -70.0;
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
    let row = &mut row[visible];
    let maximum = maximum(row, f32::NEG_INFINITY);
    row.iter_mut().for_each(|score| {
        let below = *score - maximum;
        *score = if below < LEAST { 0.0 } else { exp(below) };
    });
    let factor = 1.0 / sum(row, |score| score);
    row.iter_mut().for_each(|score| *score *= factor);
}
