//! A first product on a freshly opened device, held against the host's: a driver that multiplies wrongly must not spoil a model.

use super::GpuEngine;
use crate::engine::{Dtype, Engine, HostTensor};
use crate::error::{Error, Result};

/// Larger than a tile, with a rest in every direction.
const TOKENS: usize = 150;
const INPUTS: usize = 72;
const OUTPUTS: usize = 140;

/// Small whole numbers without pattern: their products and sums are exact in every number format.
fn whole_number(place: usize, seed: usize) -> f32 {
    ((place + seed).wrapping_mul(2_654_435_761) >> 13) as u32 as f32 % 7.0 - 3.0
}

impl GpuEngine {
    /// Multiplies small whole numbers and compares every result.
    ///
    /// # Errors
    /// If one differs, or the device fails.
    pub(super) fn check_products(&self) -> Result<()> {
        let x: Vec<f32> = (0..TOKENS * INPUTS).map(|i| whole_number(i, 1)).collect();
        let w: Vec<f32> = (0..OUTPUTS * INPUTS).map(|i| whole_number(i, 1 << 20)).collect();
        let mut bytes = Vec::new();
        w.iter().for_each(|&v| Dtype::F16.push(v, &mut bytes));
        let weight = self.upload_matrix(&HostTensor::owning(bytes, Dtype::F16, OUTPUTS, INPUTS))?;
        let found = self.download(&self.linear(&self.upload(&x, INPUTS)?, &weight, None)?)?;
        let dot = |(x, w): (&[f32], &[f32])| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
        let pairs = x.chunks_exact(INPUTS).flat_map(|x| w.chunks_exact(INPUTS).map(move |w| (x, w)));
        let wrong = pairs.map(dot).zip(&found).filter(|(expected, found)| expected != *found).count();
        if wrong > 0 {
            return Err(Error::Device {
                operation: format!("a first product on {}", self.info.label()),
                message: format!("{wrong} of {} results are wrong; update its driver or use another --device", found.len()),
            });
        }
        Ok(())
    }
}
