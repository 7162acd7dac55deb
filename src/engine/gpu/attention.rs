//! Causal attention in tiles of queries and keys; no matrix of scores exists.

use super::context::fold;
use super::{GpuEngine, Kernel, Tensor, words};
use crate::engine::AttentionShape;
use crate::error::{Error, Result};
use bytemuck::bytes_of;

/// Queries of a tile, as the kernel has them.
const QUERIES: usize = 64;
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
        let workgroups = q.rows / window_tokens * heads * blocks;
        let reach = sliding_window.unwrap_or(window_tokens).min(window_tokens);
        let sizes = words([window_tokens, heads, key_value_heads, reach, blocks, workgroups]);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let [a, b, c, d, e, f] = sizes;
        let params = [a, b, c, d, e, f, scale.to_bits()];
        let buffers = [(1, &q.buffer), (2, &k.buffer), (3, &v.buffer), (4, &output.buffer)];
        let operation = || format!("{shape:?}");
        self.context.dispatch(
            Kernel::Attention,
            &[("HEAD_DIM", head_dim as u32)],
            bytes_of(&params),
            &buffers,
            fold(workgroups),
            operation,
        )?;
        Ok(output)
    }
}
