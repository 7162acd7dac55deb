//! What the device reaches at best: chains of multiply-adds in registers, with the arithmetic that the engine's products use.

use super::context::Job;
use super::products::SUBGROUPS;
use super::{GpuEngine, Kernel, Products, THREADS};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Chains of a thread, or of a subgroup on matrix units, as the kernels have them.
const PER_THREAD: usize = 64;
const PER_SUBGROUP: usize = 8;

impl GpuEngine {
    /// [`Engine::multiply_adds`].
    pub(super) fn chains_in_registers(&self, rounds: u32) -> Result<u64> {
        let count = match self.products {
            Products::F32 | Products::F16 => {
                const GROUPS: usize = 8192;
                let y = self.tensor(GROUPS, THREADS)?;
                self.over(Kernel::Peak, &[rounds], &[(1, y.buffer())], GROUPS, 1)?;
                GROUPS * THREADS * PER_THREAD
            }
            Products::Cooperative { side, subgroup_size } => {
                const GROUPS: usize = 2048;
                let matrices = GROUPS * SUBGROUPS as usize * PER_SUBGROUP;
                let y = self.tensor(matrices, side * side)?;
                let kernel = if side == 16 { Kernel::PeakCooperative16 } else { Kernel::PeakCooperative8 };
                let constants = [("THREADS", SUBGROUPS * subgroup_size)];
                let buffers = [(1, y.buffer())];
                let job = Job { kernel, constants: &constants, params: &[rounds], buffers: &buffers, workgroups: [GROUPS as u32, 1, 1] };
                let operation = || format!("{matrices} matrices of {side} x {side}");
                self.context.dispatch(&job, 0, operation)?;
                if self.context.download::<f32>(y.buffer(), 1)? == [-1.0] {
                    let message = "the driver makes other subgroups of a kernel's threads than of another's".into();
                    return Err(Error::Device { operation: operation(), message });
                }
                matrices * side.pow(3)
            }
        };
        self.all_finite(&[])?;
        Ok(count as u64 * u64::from(rounds))
    }
}
