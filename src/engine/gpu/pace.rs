//! How fast a freshly opened device multiplies: which tile suits its registers, and how much work is short for it.

use super::{GpuEngine, Matrix, Products};
use crate::engine::Engine;
use crate::error::Result;
use crate::tensor::{Dtype, HostTensor};
use std::time::Instant;

/// Tokens and outputs of the products that are timed, doubled until one takes [`LONG_ENOUGH`]; the last keeps every part of a large GPU busy.
const FIRST_SIDE: usize = 256;
const LAST_SIDE: usize = 2048;
const INPUTS: usize = 256;
/// Seconds beside which handing over the commands and waiting for them are little.
const LONG_ENOUGH: f64 = 0.004;
/// Seconds that a submission may take. Windows resets a device after two, and attention or a hot device may be several times slower.
const SHORT: f64 = 0.1;
/// Seconds of work before the tiles are compared, and how often each is timed, in turns.
const WARM_UP: f64 = 0.03;
const ROUNDS: usize = 3;
/// How much faster the narrow tile must be to be taken: small differences are noise.
const CLEARLY: f64 = 1.2;

impl GpuEngine {
    /// Multiplies a little in the wide tile and, in f32, in the narrow one, which needs a quarter of the registers: GPUs with few of them keep
    /// the sums of a wide tile in memory. Both tiles sum in the same order, so results do not depend on the choice. (In f16 only the wide one
    /// rounds activations.)
    pub(super) fn measure_pace(&mut self) -> Result<()> {
        let mut side = FIRST_SIDE;
        // Its kernel is built at the first use; the narrow tile's is while the first of its rounds is timed, which is not its least.
        self.seconds(side, Self::upload_matrix)?;
        while self.seconds(side, Self::upload_matrix)? < LONG_ENOUGH && side < LAST_SIDE {
            side *= 2;
        }
        // Devices that had nothing to do run slowly at first.
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < WARM_UP {
            self.seconds(side, Self::upload_matrix)?;
        }
        let tiles: &[bool] = if self.wide && self.products == Products::F32 { &[true, false] } else { &[self.wide] };
        let mut least = vec![f64::INFINITY; tiles.len()];
        for _ in 0..ROUNDS {
            for (&wide, least) in tiles.iter().zip(&mut least) {
                self.wide = wide;
                *least = least.min(self.seconds(side, Self::upload_matrix)?);
            }
        }
        let narrow = least.len() == 2 && least[1] * CLEARLY < least[0];
        self.wide = tiles[usize::from(narrow)];
        let mut pace = (side * side * INPUTS) as f64 / least[usize::from(narrow)];
        if matches!(self.products, Products::Cooperative { .. }) {
            // Sums of products, and attention of some shapes, are not for matrix units, and take as long as products in f32.
            let mut least = f64::INFINITY;
            for _ in 0..ROUNDS {
                least = least.min(self.seconds(side, Self::upload_rows)?);
            }
            pace = pace.min((side * side * INPUTS) as f64 / least);
        }
        self.context.short_work = (pace * SHORT) as u64;
        Ok(())
    }

    /// Of a product with so many tokens and outputs, by a weight that is uploaded like this.
    fn seconds(&self, side: usize, upload: impl Fn(&Self, &HostTensor) -> Result<Matrix>) -> Result<f64> {
        let x = self.zeros(side, INPUTS)?;
        let weight = upload(self, &HostTensor::owning(vec![0; 2 * side * INPUTS], Dtype::F16, side, INPUTS))?;
        // What was queued for them is not to be timed.
        self.context.download::<f32>(x.buffer(), 1)?;
        let begin = Instant::now();
        let y = self.linear(&x, &weight, None)?;
        // Reading back waits.
        self.context.download::<f32>(y.buffer(), 1)?;
        Ok(begin.elapsed().as_secs_f64())
    }
}
