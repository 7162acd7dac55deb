//! How fast a freshly opened device multiplies: which form of its products suits its registers, and how much work is short for it.

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
/// How much faster the narrow tile must be to be taken: it reads more, and small differences are noise.
const CLEARLY: f64 = 1.2;
/// How much faster a loop must be than steps written out.
const SOMEWHAT: f64 = 1.05;

/// How products are made in f32, and sums over tokens. All forms sum in the same order, so results do not depend on the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Whether large products take the wide tile, which needs four times the registers.
    pub wide: bool,
    /// Whether a wide tile's products are made in a loop.
    pub looped: bool,
}

impl Form {
    /// The kernels' constant.
    pub(super) fn looped(self) -> (&'static str, u32) {
        ("LOOPED", self.looped.into())
    }
}

impl GpuEngine {
    /// Multiplies a little in every form: GPUs with few registers keep the sums of a wide tile in memory, or what their compilers have read
    /// for it. (In f16 the narrow tile is left out, as only the wide one rounds activations.)
    pub(super) fn measure_pace(&mut self) -> Result<()> {
        let mut side = FIRST_SIDE;
        // A form's kernel is built at its first use; the others' are while the first of their rounds are timed, which are not their least.
        self.seconds(side, Self::upload_matrix)?;
        while self.seconds(side, Self::upload_matrix)? < LONG_ENOUGH && side < LAST_SIDE {
            side *= 2;
        }
        // Devices that had nothing to do run slowly at first.
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < WARM_UP {
            self.seconds(side, Self::upload_matrix)?;
        }
        let [narrow, wide, looped] = [(false, false), (true, false), (true, true)].map(|(wide, looped)| Form { wide, looped });
        let forms: &[Form] = match self.products {
            _ if !self.form.wide => &[narrow],
            Products::F32 => &[wide, looped, narrow],
            Products::F16 | Products::Cooperative { .. } => &[wide, looped],
        };
        // Sums over tokens, and attention of some shapes, are not for matrix units, and take as long as products in f32.
        let least = self.least_seconds(side, forms, Self::upload_rows)?;
        let looped = least.len() > 1 && least[1] * SOMEWHAT < least[0];
        let mut chosen = usize::from(looped);
        if least.len() > 2 && least[2] * CLEARLY < least[chosen] {
            chosen = 2;
        }
        self.form = Form { wide: forms[chosen].wide, looped };
        let mut slowest = least[chosen];
        if matches!(self.products, Products::Cooperative { .. }) {
            slowest = slowest.max(self.least_seconds(side, &[self.form], Self::upload_matrix)?[0]);
        }
        self.context.short_work = ((side * side * INPUTS) as f64 / slowest * SHORT) as u64;
        Ok(())
    }

    /// Of a product in each of these forms, which are timed in turns.
    fn least_seconds(
        &mut self,
        side: usize,
        forms: &[Form],
        upload: impl Fn(&Self, &HostTensor) -> Result<Matrix> + Copy,
    ) -> Result<Vec<f64>> {
        let mut least = vec![f64::INFINITY; forms.len()];
        for _ in 0..ROUNDS {
            for (&form, least) in forms.iter().zip(&mut least) {
                self.form = form;
                *least = least.min(self.seconds(side, upload)?);
            }
        }
        Ok(least)
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
