//! Causal attention in tiles of queries and keys; no matrix of scores exists.

use super::context::Job;
use super::products::SUBGROUPS;
use super::tensor::F16Layout;
use super::tiles::{SCALED_ROWS, UNIT, tile_lines};
use super::{GpuEngine, Kernel, Products, Tensor, words};
use crate::engine::AttentionShape;
use crate::error::{Error, Result};

/// Queries of a tile, as the kernel has them.
const QUERIES: usize = 64;
/// How many multiply-adds of a product take the time of one of attention, at most.
const SLOWNESS: u64 = 4;
/// Matrices of sums of a subgroup of the kernel on matrix units.
const MOST_SUMS: usize = 16;
/// Head channels that the kernel's registers hold.
const MAXIMUM_HEAD_DIM: usize = 256;

/// Workgroup memory of the kernel on matrix units: scores in f32, probabilities in f16, and a tile of keys in f16, each with its padding.
fn bytes_on_units(side: usize, head_dim: usize) -> usize {
    let (queries, keys) = (SUBGROUPS as usize * side, 2 * side);
    4 * queries * (keys + 4) + 2 * queries * (keys + 8) + 2 * keys * (head_dim + 8)
}

impl GpuEngine {
    /// See [`crate::engine::Engine::attention`].
    pub(super) fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
        let AttentionShape { window_tokens, heads, key_value_heads, head_dim, .. } = shape;
        if head_dim > MAXIMUM_HEAD_DIM {
            return Err(Error::Unsupported(format!(
                "head_dim {head_dim} is larger than the GPU attention kernel holds ({MAXIMUM_HEAD_DIM}); use --device cpu"
            )));
        }
        assert_eq!([q.columns, k.columns, v.columns], [heads, key_value_heads, key_value_heads].map(|n| n * head_dim), "heads do not fit");
        assert!(k.rows == q.rows && v.rows == q.rows && q.rows.is_multiple_of(window_tokens), "tokens do not fit the windows");
        let units = match self.attention_units(shape) {
            Some(units) if self.attends_on_units && self.attends_rightly(head_dim)? => Some(units),
            _ => None,
        };
        self.attend_on(units, q, k, v, shape)
    }

    /// The same on matrix units of so many rows with subgroups of so many threads, or without.
    pub(super) fn attend_on(
        &self,
        units: Option<(usize, u32)>,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        shape: AttentionShape,
    ) -> Result<Tensor> {
        let AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } = shape;
        let output = self.tensor(q.rows, q.columns)?;
        let queries = units.map_or(QUERIES, |(side, _)| SUBGROUPS as usize * side);
        let blocks = window_tokens.div_ceil(queries);
        let reach = sliding_window.unwrap_or(window_tokens).min(window_tokens);
        let [window_word, heads_word, kv_heads, reach_word, blocks_word] = words([window_tokens, heads, key_value_heads, reach, blocks]);
        let params = [window_word, heads_word, kv_heads, reach_word, blocks_word, (1.0 / (head_dim as f32).sqrt()).to_bits()];
        let mut constants = vec![("HEAD_DIM", head_dim as u32)];
        let [tasks] = words([q.rows / window_tokens * heads * blocks]);
        let work = SLOWNESS * (2 * queries * reach * head_dim) as u64;
        let run = |kernel, constants: &[_], buffers: &[_]| {
            let job = Job { kernel, constants, params: &params, buffers, workgroups: [1, tasks, 1] };
            self.context.dispatch_rows(&job, work, || format!("{shape:?}"))
        };
        if let Some((side, subgroup_size)) = units {
            let kernel = if side == 16 { Kernel::AttentionCooperative16 } else { Kernel::AttentionCooperative8 };
            let threads = SUBGROUPS * subgroup_size;
            let steps = (2 * side * head_dim / UNIT).div_ceil(threads as usize) as u32;
            constants.extend([("SUBGROUP_SIZE", subgroup_size), ("THREADS", threads), ("STEPS", steps)]);
            let tiles = |x: &Tensor| x.in_f16(F16Layout::Tiles, |layout| self.activation_tiles(x, tile_lines(side), layout));
            let (q, k, v) = (tiles(q)?, tiles(k)?, tiles(v)?);
            let numbers = [(1, &q.numbers), (2, &k.numbers), (3, &v.numbers), (4, output.buffer())];
            run(kernel, &constants, &[&numbers[..], &[(5, &q.scales), (6, &k.scales), (7, &v.scales)]].concat())?;
        } else {
            run(Kernel::Attention, &constants, &[(1, q.buffer()), (2, k.buffer()), (3, v.buffer()), (4, output.buffer())])?;
        }
        Ok(output)
    }

    /// The side of matrix units and the size of subgroups, if attention of this shape can run on them: in whole blocks of tokens and channels.
    pub(super) fn attention_units(&self, shape: AttentionShape) -> Option<(usize, u32)> {
        let Products::Cooperative { side, subgroup_size } = self.products else { return None };
        let threads = subgroup_size as usize;
        // Threads that share a query have at least four keys of the two blocks of a tile.
        let shared = threads.is_multiple_of(side) && (1..=side / 2).contains(&(threads / side));
        let whole = shape.window_tokens.is_multiple_of(SCALED_ROWS) && shape.head_dim.is_multiple_of(side);
        let limit = self.context.limits().max_compute_workgroup_storage_size as usize;
        let fits = shape.head_dim <= MOST_SUMS * side && bytes_on_units(side, shape.head_dim) <= limit;
        (shared && whole && fits).then_some((side, subgroup_size))
    }
}
