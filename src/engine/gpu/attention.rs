//! Causal attention in tiles of queries and keys; no matrix of scores exists.

use super::context::Job;
use super::{GpuEngine, Kernel, Tensor, words};
use crate::engine::AttentionShape;
use crate::error::{Error, Result};

/// Queries of a tile, as the kernel has them.
const QUERIES: usize = 64;
/// How many multiply-adds of a product take the time of one of attention, at most.
const SLOWNESS: u64 = 4;
/// Head channels that the kernel's registers hold.
const MAXIMUM_HEAD_DIM: usize = 256;

impl GpuEngine {
    /// See [`crate::engine::Engine::attention`].
    pub(super) fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
        let AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } = shape;
        if head_dim > MAXIMUM_HEAD_DIM {
            return Err(Error::Unsupported(format!(
                "head_dim {head_dim} is larger than the GPU attention kernel holds ({MAXIMUM_HEAD_DIM}); use --device cpu"
            )));
        }
        let output = self.tensor(q.rows, q.columns)?;
        let blocks = window_tokens.div_ceil(QUERIES);
        let reach = sliding_window.unwrap_or(window_tokens).min(window_tokens);
        let [window_word, heads_word, kv_heads, reach_word, blocks_word] = words([window_tokens, heads, key_value_heads, reach, blocks]);
        let params = [window_word, heads_word, kv_heads, reach_word, blocks_word, (1.0 / (head_dim as f32).sqrt()).to_bits()];
        let buffers = [(1, q.buffer()), (2, k.buffer()), (3, v.buffer()), (4, output.buffer())];
        let constants = [("HEAD_DIM", head_dim as u32)];
        let [tasks] = words([q.rows / window_tokens * heads * blocks]);
        let job = Job { kernel: Kernel::Attention, constants: &constants, params: &params, buffers: &buffers, workgroups: [1, tasks, 1] };
        let work = SLOWNESS * (2 * QUERIES * reach * head_dim) as u64;
        self.context.dispatch_rows(&job, work, || format!("{shape:?}"))?;
        Ok(output)
    }
}
