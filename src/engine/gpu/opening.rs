//! From an adapter to an engine that is known to multiply rightly: a driver that does not must not spoil a model.

use super::adapter::{self, AdapterChoice, Opened};
use super::{GpuEngine, Products};
use crate::engine::{Dtype, Engine, HostTensor, Precision};
use crate::error::{Error, Result};

/// The first product: larger than a tile, with a rest in every direction.
const TOKENS: usize = 150;
const INPUTS: usize = 72;
const OUTPUTS: usize = 140;

/// Small whole numbers without pattern: their products and sums are exact in every number format.
fn whole_number(place: usize, seed: usize) -> f32 {
    ((place + seed).wrapping_mul(2_654_435_761) >> 13) as u32 as f32 % 7.0 - 3.0
}

impl GpuEngine {
    /// Opens the chosen adapter, or `None` if there is none. Where no product comes out right on matrix units, which drivers have not
    /// had for long, the engine goes on without them.
    pub fn open(choice: AdapterChoice<'_>, precision: Precision) -> Result<Option<Self>> {
        let Some(opened) = adapter::open(choice, precision, true)? else { return Ok(None) };
        let on_matrix_units = opened.products.iter().any(|products| matches!(products, Products::Cooperative { .. }));
        match Self::on(opened) {
            Err(error) if on_matrix_units => {
                tracing::warn!("{error}; going on without matrix units");
                adapter::open(choice, precision, false)?.map(Self::on).transpose()
            }
            engine => engine.map(Some),
        }
    }

    /// An engine with the first of the adapter's ways to multiply that comes out right.
    fn on(opened: Opened) -> Result<Self> {
        let Opened { context, info, products } = opened;
        let unused = context.buffer(16)?;
        let mut engine = Self { context, info, products: products[0], wide: true, unused };
        let mut result = Ok(());
        for products in products {
            engine.products = products;
            result = engine.check_products();
            if result.is_ok() {
                break;
            }
        }
        result?;
        engine.measure_pace()?;
        tracing::debug!(products = ?engine.products, wide = engine.wide, short_work = engine.context.short_work, "opened {}", engine.info.label());
        Ok(engine)
    }

    /// Multiplies small whole numbers and compares every result.
    ///
    /// # Errors
    /// If one differs, or the device fails.
    fn check_products(&self) -> Result<()> {
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
