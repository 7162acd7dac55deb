//! The native engine: multi-threaded, matrix products of its own, or on faer. It needs no driver, and it is the oracle of the GPU kernels.

mod arithmetic;
mod attention;
mod buffers;
mod cross;
mod elementwise;
mod linear;
mod moments;
mod packed;
mod peak;
mod product;
mod room;
mod vectors;

pub use arithmetic::Arithmetic;
pub use moments::Moments;
pub use packed::{PackedMatrix, Unit};

use super::{AttentionShape, ColumnNorms, CrossEntropy, DeviceInfo, DeviceKind, Engine, MomentsShape, SlotMoments};
use crate::error::Result;
use crate::tensor::{Dtype, HostTensor};
use buffers::{Buffer, Buffers};
use room::Room;
use std::ops::Range;

/// For activations and hidden states, the rest of which goes to a mapped file, and for packed weights; weights as they are stored are mapped.
const MEMORY_BUDGET: u64 = 1 << 30;

/// The CPU engine. Parallel work runs on rayon's global pool, whose size `--threads` sets.
pub struct CpuEngine {
    info: DeviceInfo,
    arithmetic: Arithmetic,
    /// For packed weights.
    room: Room,
    /// For what operations make.
    buffers: Buffers,
}

/// Row-major f32 `[data.len() / columns, columns]` in host memory.
pub struct Tensor {
    data: Buffer,
    columns: usize,
}

impl Tensor {
    fn rows(&self) -> usize {
        self.data.len() / self.columns
    }
}

impl Default for CpuEngine {
    fn default() -> Self {
        Self::new(Arithmetic::fastest_f32())
    }
}

impl CpuEngine {
    /// An engine that multiplies so; all else is f32.
    ///
    /// # Panics
    /// If this processor does not have the unit.
    #[must_use]
    pub fn new(arithmetic: Arithmetic) -> Self {
        assert!(arithmetic.is_available(), "this processor has no such unit");
        let threads = rayon::current_num_threads();
        let (operands, note) = match arithmetic {
            Arithmetic::Library | Arithmetic::F32(_) => (Dtype::F32, ""),
            Arithmetic::Bf16(_) => (Dtype::Bf16, ", bf16 products"),
        };
        Self {
            info: DeviceInfo {
                kind: DeviceKind::Cpu,
                name: format!("{threads} threads, {}{note}", std::env::consts::ARCH),
                backend: "native".into(),
                operands,
                // Enough rows for the matrix product to run at full speed; the MLP's activations stay near the cache.
                default_batch_tokens: 512,
                memory_budget: MEMORY_BUDGET,
                staging_bytes: None,
                max_binding_bytes: u64::MAX,
            },
            arithmetic,
            room: Room::new(MEMORY_BUDGET),
            buffers: Buffers::default(),
        }
    }

    /// Activations, hidden states and packed weights stay within so many bytes of memory; neither mapped weights nor the recipes' linear
    /// algebra count.
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: u64) -> Self {
        self.info.memory_budget = bytes;
        self.room.set(bytes);
        self
    }
}

impl Engine for CpuEngine {
    type Tensor = Tensor;
    /// Borrowed from the map. 16-bit numbers widen, or are packed, in cache-sized panels inside the product; packed ones stay where there is room.
    type Matrix = PackedMatrix;
    type Moments = Moments;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn set_spare_memory(&self, bytes: u64) {
        self.room.set(bytes);
    }

    fn upload(&self, data: &[f32], columns: usize) -> Result<Tensor> {
        Ok(Tensor { data: Buffer::copy_of(data), columns })
    }

    fn upload_matrix(&self, matrix: &HostTensor) -> Result<PackedMatrix> {
        Ok(PackedMatrix::new(matrix.clone(), self.room.clone()))
    }

    fn copy(&self, tensor: &Tensor) -> Result<Tensor> {
        self.upload(&tensor.data, tensor.columns)
    }

    fn zeros(&self, rows: usize, columns: usize) -> Result<Tensor> {
        Ok(Tensor { data: Buffer::zeros(rows * columns), columns })
    }

    fn columns(&self, tensor: &Tensor) -> usize {
        tensor.columns
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(tensor.data.to_vec())
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        assert!(x.columns.is_multiple_of(weight.data.len()), "norm weights do not fit the activations");
        let mut y = self.buffers.take(x.data.len());
        elementwise::rms_norm(&x.data, &weight.data, eps, &mut y);
        Ok(Tensor { data: y, columns: x.columns })
    }

    fn linear(&self, x: &Tensor, weight: &PackedMatrix, bias: Option<&Tensor>) -> Result<Tensor> {
        assert!(bias.is_none_or(|bias| bias.data.len() == weight.tensor.rows), "the bias does not fit the matrix");
        let mut y = self.buffers.take(x.rows() * weight.tensor.rows);
        self.arithmetic.linear(&x.data, weight, bias.map(|bias| &*bias.data), &self.buffers, &mut y);
        Ok(Tensor { data: y, columns: weight.tensor.rows })
    }

    fn add_scaled(&self, x: &mut Tensor, y: &Tensor, factor: f32) -> Result<()> {
        elementwise::add_scaled(&mut x.data, &y.data, factor);
        Ok(())
    }

    fn rope(&self, x: &mut Tensor, table: &Tensor, window_tokens: usize) -> Result<()> {
        assert!(x.columns.is_multiple_of(table.columns) && window_tokens <= table.rows(), "the rotary table does not fit the activations");
        elementwise::rope(&mut x.data, x.columns, &table.data, table.columns, window_tokens);
        Ok(())
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, shape: AttentionShape) -> Result<Tensor> {
        let mut output = self.buffers.take(q.data.len());
        attention::attention(&q.data, &k.data, &v.data, shape, &mut output)?;
        Ok(Tensor { data: output, columns: q.columns })
    }

    fn swiglu(&self, gate: &mut Tensor, up: &Tensor) -> Result<()> {
        assert_eq!(gate.data.len(), up.data.len(), "tensors of different sizes");
        elementwise::swiglu(&mut gate.data, &up.data);
        Ok(())
    }

    fn scale_columns(&self, x: &mut Tensor, mask: &Tensor) -> Result<()> {
        assert_eq!(x.columns, mask.data.len(), "the mask does not fit the activations");
        elementwise::scale_columns(&mut x.data, &mask.data);
        Ok(())
    }

    fn gather(&self, to: &mut Tensor, first: usize, from: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<()> {
        assert_eq!(columns.data.len(), to.columns, "what is gathered does not fit");
        let out = &mut to.data[first * to.columns..][..rows.data.len() * to.columns];
        elementwise::gather(out, (&from.data, from.columns), &rows.data, &columns.data);
        Ok(())
    }

    fn all_finite(&self, tensors: &[&Tensor]) -> Result<bool> {
        Ok(tensors.iter().all(|t| elementwise::is_finite(&t.data)))
    }

    fn moments(&self, shape: MomentsShape) -> Result<Moments> {
        Ok(Moments::new(shape))
    }

    fn accumulate(&self, moments: &mut Moments, x: &Tensor, first_window: usize) -> Result<()> {
        moments.accumulate(&x.data, x.columns, first_window);
        Ok(())
    }

    fn read_moments(&self, moments: &Moments) -> Result<Vec<SlotMoments>> {
        Ok(moments.slots())
    }

    fn shifted(&self, x: &Tensor, shift: &Tensor, scales: Option<&Tensor>) -> Result<Tensor> {
        let fits = shift.data.len() == x.columns && scales.is_none_or(|scales| scales.data.len() == x.rows());
        assert!(fits, "the shift does not fit the activations");
        let mut values = self.buffers.take(x.data.len());
        elementwise::shifted(&x.data, &shift.data, scales.map(|scales| &*scales.data), &mut values);
        Ok(Tensor { data: values, columns: x.columns })
    }

    fn inverse_norms(&self, x: &Tensor) -> Result<Tensor> {
        let mut norms = self.buffers.take(x.rows());
        elementwise::inverse_norms(&x.data, x.columns, &mut norms);
        Ok(Tensor { data: norms, columns: 1 })
    }

    fn add_cross(&self, sum: &mut Tensor, a: &Tensor, columns: Range<usize>, b: &Tensor, symmetric: bool) -> Result<()> {
        cross::add_cross(&mut sum.data, sum.columns, (&a.data, a.columns), columns, (&b.data, b.columns), symmetric);
        Ok(())
    }

    fn column_norms(&self, matrix: &PackedMatrix) -> Result<ColumnNorms> {
        Ok(linear::column_norms(&matrix.tensor))
    }

    fn cross_entropy_panel(&self, state: &mut CrossEntropy<Tensor>, logits: &Tensor, first_entry: usize) -> Result<()> {
        assert!(state.targets.rows() == logits.rows() && state.state.rows() == logits.rows(), "logits of other tokens");
        elementwise::cross_entropy_panel(&mut state.state.data, &state.targets.data, &logits.data, first_entry);
        Ok(())
    }

    fn divergence_panel(&self, sums: &mut Tensor, logits: [&Tensor; 2], states: [&Tensor; 2]) -> Result<()> {
        assert!([logits[0], logits[1], states[0], states[1]].iter().all(|part| part.rows() == sums.data.len()), "logits of other tokens");
        assert_eq!(logits[0].columns, logits[1].columns, "logits of different sizes");
        elementwise::divergence_panel(&mut sums.data, logits.map(|l| &*l.data), states.map(|s| &*s.data));
        Ok(())
    }

    fn multiply_adds(&self, rounds: u32) -> Result<u64> {
        let done: u64 = rayon::broadcast(|_| self.arithmetic.in_registers(rounds.into())).into_iter().sum();
        Ok(done / self.arithmetic.products_of_one(Dtype::F16) as u64)
    }
}
