//! The GPU engine: wgpu on Vulkan, Metal, DX12 or GL, with the WGSL kernels of `shaders/`.
//!
//! Operations are queued and return at once; reading back waits. Buffers return to a pool when their tensor is dropped, so a
//! layer's activations use the same memory for every batch.

mod adapter;
mod attention;
mod check;
mod context;
mod moments;
mod peak;
mod products;
mod shaders;

pub use adapter::{AdapterChoice, AdapterReport, list};
pub use moments::Moments;
pub use products::Products;
pub use shaders::Kernel;

use super::{
    AttentionShape, CROSS_ENTROPY_START, ColumnNorms, CrossEntropy, DeviceInfo, Dtype, Engine, HostTensor, MomentsShape, Precision,
    SlotMoments,
};
use crate::error::{Error, Result};
use bytemuck::{Pod, bytes_of, cast_slice};
use context::{Buffer, Context, fold};
use std::ops::Range;

/// Threads of an elementwise workgroup, and sizes of tiles, as the kernels have them.
const THREADS: usize = 256;
const COLUMN_THREADS: usize = 64;
const CROSS_TILE: usize = 128;
const FINITE_PER_THREAD: usize = 16;

/// The GPU engine.
pub struct GpuEngine {
    context: Context,
    info: DeviceInfo,
    products: Products,
    /// Stands in where a kernel's binding is not used.
    unused: Buffer,
    /// One word, set by f16 products whose activations are out of range.
    overflow: Buffer,
}

/// Row-major f32 `[rows, columns]` on the device.
pub struct Tensor {
    buffer: Buffer,
    rows: usize,
    columns: usize,
}

impl Tensor {
    fn count(&self) -> usize {
        self.rows * self.columns
    }
}

/// A matrix in its checkpoint format, split by rows where it exceeds the largest binding.
pub struct Matrix {
    /// First row, rows and numbers of each panel.
    panels: Vec<(usize, usize, Buffer)>,
    dtype: Dtype,
    rows: usize,
    columns: usize,
}

impl Matrix {
    fn format(&self) -> (&'static str, u32) {
        (
            "WEIGHT_FORMAT",
            match self.dtype {
                Dtype::F32 => 0,
                Dtype::F16 => 1,
                Dtype::Bf16 => 2,
            },
        )
    }
}

/// A kernel's parameter struct: 32-bit words in the order of the WGSL struct.
fn words<const N: usize>(values: [usize; N]) -> [u32; N] {
    values.map(|v| u32::try_from(v).expect("sizes are below 2^32: no binding holds more numbers"))
}

impl GpuEngine {
    /// Opens the chosen adapter, or `None` if there is none. A first product must come out right; where it does not on matrix units,
    /// which drivers have not had for long, the engine goes on without them.
    pub fn open(choice: AdapterChoice<'_>, precision: Precision) -> Result<Option<Self>> {
        let Some(engine) = Self::on(adapter::open(choice, precision, true)?)? else { return Ok(None) };
        let Err(error) = engine.check_products() else { return Ok(Some(engine)) };
        if !matches!(engine.products, Products::Cooperative { .. }) {
            return Err(error);
        }
        drop(engine);
        tracing::warn!("{error}; going on without matrix units");
        let engine = Self::on(adapter::open(choice, precision, false)?)?;
        engine.iter().try_for_each(Self::check_products)?;
        Ok(engine)
    }

    fn on(opened: Option<adapter::Opened>) -> Result<Option<Self>> {
        let Some(adapter::Opened { context, info, products }) = opened else { return Ok(None) };
        let unused = context.buffer(16)?;
        let overflow = context.upload(bytes_of(&0u32))?;
        Ok(Some(Self { context, info, products, unused, overflow }))
    }

    /// How this engine multiplies.
    #[must_use]
    pub fn products(&self) -> Products {
        self.products
    }

    /// Splits matrices into panels of at most `bytes` a binding, as an adapter with small limits would force.
    #[must_use]
    pub fn with_binding_limit(mut self, bytes: u64) -> Self {
        self.info.max_binding_bytes = self.info.max_binding_bytes.min(bytes);
        self
    }

    fn tensor(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let bytes = 4 * (rows * columns) as u64;
        let limit = self.context.limits().max_storage_buffer_binding_size;
        if bytes > limit {
            return Err(Error::Device {
                operation: format!("allocating activations [{rows}, {columns}]"),
                message: format!("the adapter binds at most {limit} bytes; use a smaller --batch-tokens"),
            });
        }
        Ok(Tensor { buffer: self.context.buffer(bytes)?, rows, columns })
    }

    /// A pass over `count` elements, or over `count` tasks of one workgroup where `per_workgroup` is 1.
    fn over(&self, kernel: Kernel, params: &impl Pod, buffers: &[(u32, &Buffer)], count: usize, per_workgroup: usize) -> Result<()> {
        let groups = fold(count.div_ceil(per_workgroup));
        self.context.dispatch(kernel, &[], bytes_of(params), buffers, groups, || format!("{count} elements"))
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
        Ok(Tensor { buffer: self.context.upload(cast_slice(data))?, rows: data.len() / columns, columns })
    }

    fn upload_matrix(&self, matrix: &HostTensor) -> Result<Matrix> {
        let matrix = &self.prepare(matrix);
        let panel_rows = (self.info.max_binding_bytes as usize / matrix.row_bytes()).clamp(1, matrix.rows);
        let panels = (0..matrix.rows)
            .step_by(panel_rows)
            .map(|first| {
                let panel = matrix.row_panel(first..(first + panel_rows).min(matrix.rows));
                Ok((first, panel.rows, self.context.upload(panel.bytes.as_ref())?))
            })
            .collect::<Result<_>>()?;
        Ok(Matrix { panels, dtype: matrix.dtype, rows: matrix.rows, columns: matrix.columns })
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        let copy = self.tensor(tensor.rows, tensor.columns)?;
        self.context.copy(&tensor.buffer, &copy.buffer, 4 * tensor.count() as u64)?;
        Ok(copy)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let tensor = self.tensor(rows, columns)?;
        self.context.clear(&tensor.buffer);
        Ok(tensor)
    }

    fn columns(&self, tensor: &Tensor) -> usize {
        tensor.columns
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let bytes = self.context.download(&tensor.buffer, 4 * tensor.count() as u64)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let y = self.tensor(x.rows, x.columns)?;
        let runs = x.count() / weight.count();
        let [runs_word, width] = words([runs, weight.count()]);
        let params = [runs_word, width, eps.to_bits()];
        self.over(Kernel::RmsNorm, &params, &[(1, &x.buffer), (2, &weight.buffer), (3, &y.buffer)], runs, 1)?;
        Ok(y)
    }

    fn linear(&self, x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
        self.multiply(x, weight, bias)
    }

    fn add_scaled(&self, x: &mut Tensor, y: &Tensor, factor: f32) -> Result<()> {
        let [count] = words([x.count()]);
        self.over(Kernel::Add, &[count, factor.to_bits()], &[(1, &y.buffer), (2, &x.buffer)], x.count(), THREADS)
    }

    fn rope(&self, x: &mut Tensor, table: &Tensor, window_tokens: usize) -> Result<()> {
        let pairs = x.count() / 2;
        let params = words([pairs, x.columns / 2, table.columns / 2, window_tokens]);
        self.over(Kernel::Rope, &params, &[(1, &table.buffer), (2, &x.buffer)], pairs, THREADS)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
        self.attend(q, k, v, shape)
    }

    fn swiglu(&self, gate: &mut Tensor, up: &Tensor) -> Result<()> {
        self.over(Kernel::Swiglu, &words([gate.count()]), &[(1, &up.buffer), (2, &gate.buffer)], gate.count(), THREADS)
    }

    fn scale_columns(&self, x: &mut Tensor, mask: &Tensor) -> Result<()> {
        let params = words([x.count(), x.columns]);
        self.over(Kernel::ScaleColumns, &params, &[(1, &mask.buffer), (2, &x.buffer)], x.count(), THREADS)
    }

    fn all_finite(&self, tensors: &[&Tensor]) -> Result<bool> {
        let found = self.context.upload(bytes_of(&0u32))?;
        for x in tensors {
            let params = words([x.count()]);
            self.over(Kernel::NonFinite, &params, &[(1, &x.buffer), (2, &found)], x.count(), THREADS * FINITE_PER_THREAD)?;
        }
        if self.products != Products::F32 && self.context.download(&self.overflow, 4)?.iter().any(|&byte| byte != 0) {
            return Err(Error::NotFinite("activations are beyond the range of f16; use --precision f32".into()));
        }
        Ok(self.context.download(&found, 4)?.iter().all(|&byte| byte == 0))
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
        let y = self.tensor(x.rows, x.columns)?;
        let params = words([x.count(), x.columns, usize::from(scales.is_some())]);
        let buffers = [(1, &x.buffer), (2, &shift.buffer), (3, &scales.unwrap_or(shift).buffer), (4, &y.buffer)];
        self.over(Kernel::Shifted, &params, &buffers, x.count(), THREADS)?;
        Ok(y)
    }

    fn inverse_norms(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.tensor(x.rows, 1)?;
        self.over(Kernel::InverseNorms, &words([x.rows, x.columns]), &[(1, &x.buffer), (2, &y.buffer)], x.rows, 1)?;
        Ok(y)
    }

    fn add_cross(&self, sum: &mut Tensor, a: &Tensor, columns: Range<usize>, b: &Tensor, symmetric: bool) -> Result<()> {
        let params = words([a.rows, a.columns, columns.start, columns.len(), b.columns, sum.columns, usize::from(symmetric)]);
        let buffers = [(1, &a.buffer), (2, &b.buffer), (3, &sum.buffer)];
        let groups = [sum.columns.div_ceil(CROSS_TILE) as u32, columns.len().div_ceil(CROSS_TILE) as u32, 1];
        let operation = || format!("[{}, {}] by [{}, {}]", a.rows, columns.len(), b.rows, sum.columns);
        self.context.dispatch(Kernel::Cross, &[], bytes_of(&params), &buffers, groups, operation)
    }

    fn column_norms(&self, matrix: &Matrix) -> Result<ColumnNorms> {
        let norms = self.tensor(matrix.columns, 2)?;
        self.context.clear(&norms.buffer);
        for &(_, rows, ref panel) in &matrix.panels {
            let params = words([rows, matrix.columns]);
            let groups = [matrix.columns.div_ceil(COLUMN_THREADS) as u32, 1, 1];
            let operation = || format!("[{rows}, {}] {:?}", matrix.columns, matrix.dtype);
            self.context.dispatch(
                Kernel::ColumnNorms,
                &[matrix.format()],
                bytes_of(&params),
                &[(1, panel), (2, &norms.buffer)],
                groups,
                operation,
            )?;
        }
        let norms = self.download(&norms)?;
        Ok(ColumnNorms {
            square_sum: norms.chunks_exact(2).map(|n| n[0]).collect(),
            absolute_mean: norms.chunks_exact(2).map(|n| n[1] / matrix.rows as f32).collect(),
        })
    }

    fn cross_entropy(&self, targets: &[u32]) -> Result<CrossEntropy<Tensor>> {
        let targets: Vec<f32> = targets.iter().map(|&t| t as f32).collect();
        Ok(CrossEntropy { state: self.upload(&CROSS_ENTROPY_START.repeat(targets.len()), 3)?, targets: self.upload(&targets, 1)? })
    }

    fn cross_entropy_panel(&self, state: &mut CrossEntropy<Tensor>, logits: &Tensor, first_entry: usize) -> Result<()> {
        let params = words([logits.rows, logits.columns, first_entry]);
        let buffers = [(1, &logits.buffer), (2, &state.targets.buffer), (3, &state.state.buffer)];
        self.over(Kernel::CrossEntropy, &params, &buffers, logits.rows, 1)
    }
}
