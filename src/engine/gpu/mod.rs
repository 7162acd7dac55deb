//! The GPU engine: wgpu on Vulkan, Metal, DX12 or GL, with the WGSL kernels of `shaders/`.
//!
//! Operations are queued and return at once; reading back waits. Buffers return to a pool when their tensor is dropped, so a
//! layer's activations use the same memory for every batch.

mod adapter;
mod attention;
mod context;
mod moments;
mod opening;
mod pace;
mod peak;
mod pool;
mod products;
mod shaders;
mod sums;
mod tensor;
mod tiles;

pub use adapter::{AdapterChoice, AdapterReport, list};
pub use moments::Moments;
pub use pace::Form;
pub use products::Products;
pub use shaders::Kernel;
pub use tensor::{Matrix, Tensor};

use super::{AttentionShape, ColumnNorms, CrossEntropy, DeviceInfo, Engine, MomentsShape, SlotMoments};
use crate::error::Result;
use crate::tensor::HostTensor;
use bytemuck::{bytes_of, cast_slice};
use context::{Context, Job, fold};
use pool::Buffer;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

/// Threads of an elementwise workgroup, and numbers that one of them looks at, as the kernels have them.
const THREADS: usize = 256;
const FINITE_PER_THREAD: usize = 16;
/// Columns of a workgroup whose threads walk along rows, and tokens of which one of them turns a pair.
const COLUMN_THREADS: usize = 64;
const ROPE_TOKENS: usize = 4;

/// The GPU engine.
pub struct GpuEngine {
    context: Context,
    info: DeviceInfo,
    is_card: bool,
    products: Products,
    /// Whether attention runs on matrix units, where products do; and with heads of how many channels it has been right there, or not.
    attends_on_units: bool,
    attention_checks: RefCell<BTreeMap<usize, bool>>,
    /// What suits the registers: see [`pace`].
    form: Form,
    /// Stands in where a kernel's binding is not used.
    unused: Buffer,
}

/// A kernel's parameter struct: 32-bit words in the order of the WGSL struct.
fn words<const N: usize>(values: [usize; N]) -> [u32; N] {
    values.map(|v| u32::try_from(v).expect("sizes are below 2^32: no binding holds more numbers"))
}

/// Workgroups of [`COLUMN_THREADS`] columns each, for so many parts of the rows.
fn grid(columns: usize, parts: usize) -> [u32; 3] {
    let [y, z, _] = fold(parts);
    [columns.div_ceil(COLUMN_THREADS) as u32, y, z]
}

impl GpuEngine {
    /// How this engine multiplies.
    #[must_use]
    pub fn products(&self) -> Products {
        self.products
    }

    /// Whether the GPU is a card with a memory of its own.
    #[must_use]
    pub fn is_card(&self) -> bool {
        self.is_card
    }

    /// Splits matrices into panels of at most `bytes` a binding, as an adapter with small limits would force.
    #[must_use]
    pub fn with_binding_limit(mut self, bytes: u64) -> Self {
        self.info.max_binding_bytes = self.info.max_binding_bytes.min(bytes);
        self
    }

    /// Stays within so many bytes of device memory.
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: u64) -> Self {
        self.info.staging_bytes = Some(self.products.staging_bytes(bytes));
        self.info.memory_budget = bytes;
        self.context.set_memory_budget(bytes);
        self
    }

    /// Most bytes that buffers took at once since the budget was set, those kept for later use among them.
    #[must_use]
    pub fn most_memory(&self) -> u64 {
        self.context.most_memory()
    }

    /// Works as on a device with other registers or another speed: see [`pace`].
    #[must_use]
    pub fn with_pace(mut self, form: Form, short_work: u64) -> Self {
        self.form = form;
        self.context.short_work = short_work;
        self
    }

    fn tensor(&self, rows: usize, columns: usize) -> Result<Tensor> {
        Ok(Tensor::new(self.context.buffer(4 * (rows * columns) as u64)?, rows, columns))
    }

    /// A pass over `count` elements, or over `count` tasks of one workgroup where `per_workgroup` is 1.
    fn over(&self, kernel: Kernel, params: &[u32], buffers: &[(u32, &Buffer)], count: usize, per_workgroup: usize) -> Result<()> {
        let workgroups = fold(count.div_ceil(per_workgroup));
        self.context.dispatch(&Job { kernel, constants: &[], params, buffers, workgroups }, 0, || format!("{count} elements"))
    }
}

impl Engine for GpuEngine {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Moments = Moments;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn upload(&self, data: &[f32], columns: usize) -> Result<Tensor> {
        Ok(Tensor::new(self.context.upload(cast_slice(data))?, data.len() / columns, columns))
    }

    fn upload_matrix(&self, matrix: &HostTensor) -> Result<Matrix> {
        self.upload_for_products(matrix)
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        let copy = self.tensor(tensor.rows, tensor.columns)?;
        self.context.copy(tensor.buffer(), copy.buffer(), 4 * tensor.count() as u64)?;
        Ok(copy)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let tensor = self.tensor(rows, columns)?;
        self.context.clear(tensor.buffer())?;
        Ok(tensor)
    }

    fn columns(&self, tensor: &Tensor) -> usize {
        tensor.columns
    }

    fn forget_operands(&self, tensor: &Tensor) {
        tensor.forget_f16();
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.context.download(tensor.buffer(), tensor.count())
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        assert!(x.columns.is_multiple_of(weight.count()), "norm weights do not fit the activations");
        let y = self.tensor(x.rows, x.columns)?;
        let runs = x.count() / weight.count();
        let [runs_word, width] = words([runs, weight.count()]);
        let params = [runs_word, width, eps.to_bits()];
        self.over(Kernel::RmsNorm, &params, &[(1, x.buffer()), (2, weight.buffer()), (3, y.buffer())], runs, 1)?;
        Ok(y)
    }

    fn linear(&self, x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
        self.multiply(x, weight, bias)
    }

    fn add_scaled(&self, x: &mut Tensor, y: &Tensor, factor: f32) -> Result<()> {
        assert_eq!(x.count(), y.count(), "tensors of different sizes");
        let quads = x.count().div_ceil(4);
        let [quads_word] = words([quads]);
        self.over(Kernel::Add, &[quads_word, factor.to_bits()], &[(1, y.buffer()), (2, x.changed())], quads, THREADS)
    }

    fn rope(&self, x: &mut Tensor, table: &Tensor, window_tokens: usize) -> Result<()> {
        assert!(x.columns.is_multiple_of(table.columns) && window_tokens <= table.rows, "the rotary table does not fit the activations");
        let (tokens, pairs) = (x.rows, x.columns / 2);
        let params = words([tokens, pairs, table.columns / 2, window_tokens]);
        let workgroups = grid(pairs, tokens.div_ceil(ROPE_TOKENS));
        let buffers = [(1, table.buffer()), (2, x.changed())];
        let job = Job { kernel: Kernel::Rope, constants: &[], params: &params, buffers: &buffers, workgroups };
        self.context.dispatch(&job, 0, || format!("[{tokens}, {}]", 2 * pairs))
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
        self.attend(q, k, v, shape)
    }

    fn swiglu(&self, gate: &mut Tensor, up: &Tensor) -> Result<()> {
        assert_eq!(gate.count(), up.count(), "tensors of different sizes");
        let quads = gate.count().div_ceil(4);
        self.over(Kernel::Swiglu, &words([quads]), &[(1, up.buffer()), (2, gate.changed())], quads, THREADS)
    }

    fn scale_columns(&self, x: &mut Tensor, mask: &Tensor) -> Result<()> {
        assert_eq!(x.columns, mask.count(), "the mask does not fit the activations");
        let count = x.count();
        self.over(Kernel::ScaleColumns, &words([count, x.columns]), &[(1, mask.buffer()), (2, x.changed())], count, THREADS)
    }

    fn gather(&self, to: &mut Tensor, first: usize, from: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<()> {
        assert!(columns.count() == to.columns && first + rows.count() <= to.rows, "what is gathered does not fit");
        let count = rows.count() * to.columns;
        let params = words([count, to.columns, from.columns, first]);
        let buffers = [(1, from.buffer()), (2, rows.buffer()), (3, columns.buffer()), (4, to.changed())];
        self.over(Kernel::Gather, &params, &buffers, count, THREADS)
    }

    fn all_finite(&self, tensors: &[&Tensor]) -> Result<bool> {
        let found = self.context.upload(bytes_of(&0u32))?;
        for x in tensors {
            let params = words([x.count()]);
            self.over(Kernel::NonFinite, &params, &[(1, x.buffer()), (2, &found)], x.count(), THREADS * FINITE_PER_THREAD)?;
        }
        Ok(self.context.download::<u32>(&found, 1)? == [0])
    }

    fn moments(&self, shape: MomentsShape) -> Result<Moments> {
        self.empty_moments(shape)
    }

    fn accumulate(&self, moments: &mut Moments, x: &Tensor, first_window: usize) -> Result<()> {
        self.accumulate_moments(moments, x, first_window)
    }

    fn read_moments(&self, moments: &Moments) -> Result<Vec<SlotMoments>> {
        self.slots_of(moments)
    }

    fn shifted(&self, x: &Tensor, shift: &Tensor, scales: Option<&Tensor>) -> Result<Tensor> {
        assert!(shift.count() == x.columns && scales.is_none_or(|s| s.count() == x.rows), "the shift does not fit the activations");
        let y = self.tensor(x.rows, x.columns)?;
        let params = words([x.count(), x.columns, usize::from(scales.is_some())]);
        let buffers = [(1, x.buffer()), (2, shift.buffer()), (3, scales.unwrap_or(shift).buffer()), (4, y.buffer())];
        self.over(Kernel::Shifted, &params, &buffers, x.count(), THREADS)?;
        Ok(y)
    }

    fn inverse_norms(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.tensor(x.rows, 1)?;
        self.over(Kernel::InverseNorms, &words([x.rows, x.columns]), &[(1, x.buffer()), (2, y.buffer())], x.rows, 1)?;
        Ok(y)
    }

    fn add_cross(&self, sum: &mut Tensor, a: &Tensor, columns: Range<usize>, b: &Tensor, symmetric: bool) -> Result<()> {
        self.add_sums_of_products(sum, a, columns, b, symmetric)
    }

    fn column_norms(&self, matrix: &Matrix) -> Result<ColumnNorms> {
        self.norms_of_columns(matrix)
    }

    fn cross_entropy_panel(&self, state: &mut CrossEntropy<Tensor>, logits: &Tensor, first_entry: usize) -> Result<()> {
        assert!(state.targets.count() == logits.rows && state.state.count() == 3 * logits.rows, "logits of other tokens");
        let params = words([logits.rows, logits.columns, first_entry]);
        let buffers = [(1, logits.buffer()), (2, state.targets.buffer()), (3, state.state.changed())];
        self.over(Kernel::CrossEntropy, &params, &buffers, logits.rows, 1)
    }

    fn divergence_panel(&self, sums: &mut Tensor, logits: [&Tensor; 2], states: [&Tensor; 2]) -> Result<()> {
        let [rows, columns] = [logits[0].rows, logits[0].columns];
        assert!(sums.count() == rows && states.iter().all(|state| state.count() == 3 * rows), "logits of other tokens");
        assert_eq!([rows, columns], [logits[1].rows, logits[1].columns], "logits of different sizes");
        let params = words([rows, columns]);
        let ([p, q], [p_state, q_state]) = (logits.map(Tensor::buffer), states.map(Tensor::buffer));
        let buffers = [(1, p), (2, q), (3, p_state), (4, q_state), (5, sums.changed())];
        self.over(Kernel::Divergence, &params, &buffers, rows, 1)
    }

    fn multiply_adds(&self, rounds: u32) -> Result<u64> {
        self.chains_in_registers(rounds)
    }
}
