//! The operations a decoder layer needs, on device memory.
//!
//! Two implementations: [`gpu`] (wgpu, WGSL kernels from `shaders/`) and [`cpu`] (native, the fallback and the oracle).
//! An engine knows shapes and numbers; it knows no model families, no files and nothing of pruning.

pub mod cpu;
pub mod gpu;
mod select;

pub use select::{AnyEngine, DeviceChoice, Precision, product_rate, select, unless_slower};

use crate::error::Result;
use crate::tensor::{Dtype, HostTensor};
use std::ops::Range;

/// The two kinds of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// An adapter, one in software too.
    Gpu,
}

/// What an engine runs on, for reports.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeviceInfo {
    /// What kind of engine it is.
    pub kind: DeviceKind,
    /// The adapter's name, or the processor's threads, architecture and kind of product.
    pub name: String,
    /// `native`, `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    /// Number format of the products' operands.
    #[serde(skip)]
    pub operands: Dtype,
    /// Tokens that one batch should hold when the user does not say.
    #[serde(skip)]
    pub default_batch_tokens: usize,
    /// Bytes of device memory to stay within.
    #[serde(skip)]
    pub memory_budget: u64,
    /// Bytes that may be on their way to the device, besides; none where the device computes on the host's memory itself.
    #[serde(skip)]
    pub staging_bytes: Option<u64>,
    /// Largest buffer one operation can bind, in bytes.
    #[serde(skip)]
    pub max_binding_bytes: u64,
}

impl DeviceInfo {
    /// Name and backend in one text.
    #[must_use]
    pub fn label(&self) -> String {
        let kind = match self.kind {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
        };
        format!("{kind} ({}, {})", self.name, self.backend)
    }
}

/// Shape of a causal attention over a batch of equally long windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Tokens of one window; rows of q, k and v are `windows * window_tokens`.
    pub window_tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// A query sees this many keys, itself included; `None` sees all before it.
    pub sliding_window: Option<usize>,
}

/// Layout of one site's channel moments on the device.
///
/// Windows are gathered into slots of `windows_per_slot` consecutive windows. The device accumulates inside a slot in f32, in
/// window order; the host merges slots in f64. A slot's result therefore depends only on its own windows, never on how
/// windows were batched or split over machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MomentsShape {
    /// Channels of the site.
    pub channels: usize,
    /// Windows in all.
    pub windows: usize,
    /// Tokens of one window.
    pub window_tokens: usize,
    /// Windows that share a slot.
    pub windows_per_slot: usize,
}

impl MomentsShape {
    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.windows.div_ceil(self.windows_per_slot)
    }

    /// Tokens gathered in slot `slot` once all windows were accumulated.
    #[must_use]
    pub fn slot_tokens(&self, slot: usize) -> usize {
        let first = slot * self.windows_per_slot;
        (self.windows - first).min(self.windows_per_slot) * self.window_tokens
    }
}

/// Moments of one slot, read back from the device.
#[derive(Debug, Clone)]
pub struct SlotMoments {
    /// Tokens counted.
    pub count: u64,
    /// Mean per channel.
    pub mean: Vec<f64>,
    /// Sum of squared deviations from the mean per channel.
    pub m2: Vec<f64>,
}

/// Column sums of a matrix `[rows, columns]`, both `[columns]`.
#[derive(Debug, Clone)]
pub struct ColumnNorms {
    /// Sum over rows of the squared entries.
    pub square_sum: Vec<f32>,
    /// Mean over rows of the absolute entries.
    pub absolute_mean: Vec<f32>,
}

/// The operations. Activations are row-major f32 `[tokens, channels]`; matrices are `[output channels, input channels]` and
/// keep the checkpoint's number format; all sums are f32 or wider.
///
/// Operations may be queued: an error of the device can surface in a later call, at the latest in one that reads back. One thread at a
/// time gives them, so that their order is known. Tensors of other shapes than an operation says make it panic.
pub trait Engine {
    /// Activations or a vector of parameters on the device.
    type Tensor;
    /// A weight matrix on the device.
    type Matrix;
    /// Running channel moments of one site.
    type Moments;

    /// What this engine runs on.
    fn info(&self) -> &DeviceInfo;
    /// Says how many bytes of the budget are left over, until it is said again: weights may be kept there in the form that products read.
    fn set_spare_memory(&self, _bytes: u64) {}

    /// Copies `data` to the device as `[data.len() / columns, columns]`.
    fn upload(&self, data: &[f32], columns: usize) -> Result<Self::Tensor>;
    /// Brings a matrix to the device in its own number format.
    fn upload_matrix(&self, matrix: &HostTensor) -> Result<Self::Matrix>;
    /// A second tensor with the same content.
    fn copy(&self, tensor: &Self::Tensor) -> Result<Self::Tensor>;
    /// `[rows, columns]` of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Result<Self::Tensor>;
    /// Columns of a tensor.
    fn columns(&self, tensor: &Self::Tensor) -> usize;
    /// Says that a tensor, which stays, will not be multiplied for a while: what products keep beside it may go.
    fn forget_operands(&self, _tensor: &Self::Tensor) {}
    /// Reads a tensor back; waits for all work queued before.
    fn download(&self, tensor: &Self::Tensor) -> Result<Vec<f32>>;

    /// `x / sqrt(mean(x^2) + eps) * weight` over runs of `weight.len()` consecutive channels: whole rows, or each head of a row.
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f32) -> Result<Self::Tensor>;
    /// `x W^T + bias`: `[tokens, in]` by `[out, in]` to `[tokens, out]`.
    fn linear(&self, x: &Self::Tensor, weight: &Self::Matrix, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// `x += factor * y`.
    fn add_scaled(&self, x: &mut Self::Tensor, y: &Self::Tensor, factor: f32) -> Result<()>;
    /// `x += y`.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor) -> Result<()> {
        self.add_scaled(x, y, 1.0)
    }
    /// Rotary embedding in place, on half-split pairs. `table` is `[positions, head_dim]`: cosines, then sines, of each pair's angle.
    fn rope(&self, x: &mut Self::Tensor, table: &Self::Tensor, window_tokens: usize) -> Result<()>;
    /// Causal softmax attention with scale `1 / sqrt(head_dim)`; returns `[tokens, heads * head_dim]`.
    fn attention(&self, q: &Self::Tensor, k: &Self::Tensor, v: &Self::Tensor, shape: AttentionShape) -> Result<Self::Tensor>;
    /// `silu(gate) * up`, written over `gate`.
    fn swiglu(&self, gate: &mut Self::Tensor, up: &Self::Tensor) -> Result<()>;
    /// Multiplies every row by `mask` `[channels]`.
    fn scale_columns(&self, x: &mut Self::Tensor, mask: &Self::Tensor) -> Result<()>;
    /// `to[first + i][j] = from[rows[i]][columns[j]]` for all of `to`'s columns. `rows` and `columns` hold places as exact f32 integers.
    fn gather(&self, to: &mut Self::Tensor, first: usize, from: &Self::Tensor, rows: &Self::Tensor, columns: &Self::Tensor) -> Result<()>;
    /// Whether all numbers in all tensors are finite; waits for the device.
    fn all_finite(&self, tensors: &[&Self::Tensor]) -> Result<bool>;

    /// Empty moments of a site.
    fn moments(&self, shape: MomentsShape) -> Result<Self::Moments>;
    /// Adds whole windows, of which the first is window `first_window`. Windows of a slot must come in order.
    fn accumulate(&self, moments: &mut Self::Moments, x: &Self::Tensor, first_window: usize) -> Result<()>;
    /// Reads all slots back; waits for the device.
    fn read_moments(&self, moments: &Self::Moments) -> Result<Vec<SlotMoments>>;
    /// `(x - shift) * scale`: activations seen from a point `[columns]` near their mean, so that sums of products do not cancel; each token
    /// times its number in `scales` `[tokens, 1]`, if given.
    fn shifted(&self, x: &Self::Tensor, shift: &Self::Tensor, scales: Option<&Self::Tensor>) -> Result<Self::Tensor>;
    /// `1 / |x|` of every token, `[tokens, 1]`; 0 for a token of zeros.
    fn inverse_norms(&self, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// `sum += a^T b` over all tokens, for the columns `columns` of `a` and as many columns of `b` as `sum` has: `[columns, width]`. Where
    /// `symmetric` is set, `b` is `a`, and sums above the diagonal may be left out.
    fn add_cross(&self, sum: &mut Self::Tensor, a: &Self::Tensor, columns: Range<usize>, b: &Self::Tensor, symmetric: bool) -> Result<()>;
    /// `a^T b` over all tokens, for the columns `columns` of `a`: `[columns, b]`.
    fn cross(&self, a: &Self::Tensor, columns: Range<usize>, b: &Self::Tensor) -> Result<Self::Tensor> {
        let mut sum = self.zeros(columns.len(), self.columns(b))?;
        self.add_cross(&mut sum, a, columns, b, false)?;
        Ok(sum)
    }
    /// Column norms of a matrix.
    fn column_norms(&self, matrix: &Self::Matrix) -> Result<ColumnNorms>;

    /// State of a cross entropy over the vocabulary for `targets.len()` tokens, to be fed panel by panel.
    fn cross_entropy(&self, targets: &[u32]) -> Result<CrossEntropy<Self::Tensor>> {
        // A maximum below every logit (WGSL has no infinity), an empty sum.
        const START: [f32; 3] = [-3.0e38, 0.0, 0.0];
        let ids: Vec<f32> = targets.iter().map(|&target| target as f32).collect();
        Ok(CrossEntropy { targets: self.upload(&ids, 1)?, state: self.upload(&START.repeat(targets.len()), 3)? })
    }
    /// Takes in the logits `[tokens, panel rows]` of vocabulary entries from `first_entry` on.
    fn cross_entropy_panel(&self, state: &mut CrossEntropy<Self::Tensor>, logits: &Self::Tensor, first_entry: usize) -> Result<()>;
    /// Adds to `sums` `[tokens, 1]` what a panel of the vocabulary has of the Kullback-Leibler divergence of predictions `q` from predictions
    /// `p`: `p (log p - log q)` over its entries, from the `logits` `[tokens, panel rows]` of `p` and `q`, and the [`CrossEntropy::state`] of
    /// both over the whole vocabulary.
    fn divergence_panel(&self, sums: &mut Self::Tensor, logits: [&Self::Tensor; 2], states: [&Self::Tensor; 2]) -> Result<()>;

    /// Chains of the multiply-adds that products with f16 weights take, in registers, `rounds` rounds of them on the whole device: waits, and
    /// returns how many of an activation with a weight they stand for.
    fn multiply_adds(&self, rounds: u32) -> Result<u64>;
}

/// Running cross entropy: per token the largest logit so far, the sum of exponentials relative to it, and the target's logit.
pub struct CrossEntropy<T> {
    /// Target ids `[tokens]`, as exact f32 integers.
    pub targets: T,
    /// `[tokens, 3]`: maximum, sum, target logit.
    pub state: T,
}

/// Negative log-likelihood per token from a downloaded [`CrossEntropy::state`].
#[must_use]
pub fn negative_log_likelihood(state: &[f32]) -> Vec<f64> {
    state.chunks_exact(3).map(|s| f64::from(s[0]) + f64::from(s[1]).ln() - f64::from(s[2])).collect()
}
