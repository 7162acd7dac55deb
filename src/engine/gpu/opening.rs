//! From an adapter to an engine that is known to multiply rightly: a driver that does not must not spoil a model.

use super::adapter::{self, AdapterChoice, Opened};
use super::{Form, GpuEngine, Matrix, Products};
use crate::engine::{AttentionShape, Engine, Precision};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor, narrowed};
use std::cell::RefCell;

/// Workgroup memory of the wide tile; adapters need offer no more than 16 KiB.
const WIDE_BYTES: u32 = 16_896;

/// Channels of a head in most models.
const HEAD_SIZES: [usize; 4] = [64, 80, 96, 128];

/// Small whole numbers without pattern: their products and sums are exact in every number format.
fn whole_number(place: usize, seed: usize) -> f32 {
    ((place + seed).wrapping_mul(2_654_435_761) >> 13) as u32 as f32 % 7.0 - 3.0
}

impl GpuEngine {
    /// Opens the chosen adapter, or `None` if there is none. Of real GPUs, one that fails is passed over with a warning.
    pub fn open(choice: AdapterChoice<'_>, precision: Precision) -> Result<Option<Self>> {
        for adapter in &adapter::find(choice) {
            match Self::on(adapter, precision) {
                Err(error) if matches!(choice, AdapterChoice::RealGpu) => tracing::warn!("{error}; trying the next device"),
                engine => return engine.map(Some),
            }
        }
        Ok(None)
    }

    /// Drivers have not had matrix units for long: where no product comes out right on them, or attention fails, the engine is opened anew and
    /// goes on without.
    fn on(adapter: &wgpu::Adapter, precision: Precision) -> Result<Self> {
        let opened = adapter::open(adapter, precision, true)?;
        let on_matrix_units = opened.products.iter().any(|products| matches!(products, Products::Cooperative { .. }));
        let mut engine = match Self::proven(opened) {
            Err(error) if on_matrix_units => {
                tracing::warn!("{error}; going on without matrix units");
                return Self::proven(adapter::open(adapter, precision, false)?);
            }
            engine => engine?,
        };
        if on_matrix_units {
            // Should one be wrong or fail, no other is trusted. A failure later on would end a run.
            let right = |right: bool, head_dim| -> Result<bool> { Ok(right && engine.attends_rightly(head_dim)?) };
            match HEAD_SIZES.into_iter().try_fold(true, right) {
                Ok(right) => engine.attends_on_units = right,
                Err(error) => {
                    tracing::warn!("{error}; going on without attention on matrix units");
                    return Self::proven(adapter::open(adapter, precision, true)?);
                }
            }
        }
        Ok(engine)
    }

    /// An engine with the first of the adapter's ways to multiply that comes out right.
    fn proven(opened: Opened) -> Result<Self> {
        let Opened { context, info, is_card, products } = opened;
        let unused = context.buffer(16)?;
        let wide = context.limits().max_compute_workgroup_storage_size >= WIDE_BYTES;
        let mut engine = Self {
            context,
            info,
            is_card,
            products: products[0],
            attends_on_units: false,
            attention_checks: RefCell::default(),
            form: Form { wide, looped: false },
            unused,
        };
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
        tracing::debug!(products = ?engine.products, form = ?engine.form, short_work = engine.context.short_work, "opened {}", engine.info.label());
        Ok(engine)
    }

    /// Products of small whole numbers by every kernel that may have to make them: some with rests in every direction, and on matrix units
    /// one that keeps many parts of the device busy, several times.
    ///
    /// # Errors
    /// If a result is wrong, or the device fails.
    fn check_products(&self) -> Result<()> {
        self.check_product([150, 72, 140], 1, Self::upload_matrix)?;
        // In wide tiles of f32 even on matrix units, and in narrow ones.
        self.check_product([150, 68, 140], 1, Self::upload_rows)?;
        self.check_product([20, 71, 30], 1, Self::upload_rows)?;
        if matches!(self.products, Products::Cooperative { .. }) {
            self.check_product([1024, 256, 1024], 3, Self::upload_matrix)?;
        }
        Ok(())
    }

    /// Whether attention on matrix units comes near that of the f32 kernel. Tried once for each number of channels of a head: for each, a
    /// driver compiles a kernel of its own, and may choose other subgroups.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn attends_rightly(&self, head_dim: usize) -> Result<bool> {
        // Of the squares of all numbers. Rounding to f16 makes 1e-7 of it.
        const TOLERANCE: f64 = 1e-5;
        if let Some(&right) = self.attention_checks.borrow().get(&head_dim) {
            return Ok(right);
        }
        let shape = AttentionShape { window_tokens: 144, heads: 4, key_value_heads: 2, head_dim, sliding_window: Some(100) };
        let part = |seed: usize, heads: usize| {
            let columns = heads * shape.head_dim;
            let numbers: Vec<f32> = (0..2 * shape.window_tokens * columns).map(|i| whole_number(i, seed << 20) / 3.0).collect();
            self.upload(&numbers, columns)
        };
        let (q, k, v) = (part(3, shape.heads)?, part(4, shape.key_value_heads)?, part(5, shape.key_value_heads)?);
        let expected = self.download(&self.attend_on(None, &q, &k, &v, shape)?)?;
        let found = self.download(&self.attend_on(self.attention_units(shape), &q, &k, &v, shape)?)?;
        let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|number| f64::from(number).powi(2)).sum::<f64>();
        let error = sum(&mut found.iter().zip(&expected).map(|(found, expected)| found - expected));
        let right = error <= TOLERANCE * sum(&mut expected.iter().copied());
        if !right {
            tracing::warn!(
                "a first attention on the matrix units of {} is wrong with {head_dim} channels a head; update its driver; going on without",
                self.info.label()
            );
        }
        self.attention_checks.borrow_mut().insert(head_dim, right);
        Ok(right)
    }

    /// Multiplies `[tokens, inputs]` by `[outputs, inputs]`, uploaded like this, so many times. Every row of the result times a vector must be
    /// the row of `x` times what the weight makes of that vector: all of it in whole numbers, and without computing the product here.
    fn check_product(
        &self,
        [tokens, inputs, outputs]: [usize; 3],
        times: usize,
        upload: impl Fn(&Self, &HostTensor) -> Result<Matrix>,
    ) -> Result<()> {
        let x: Vec<f32> = (0..tokens * inputs).map(|i| whole_number(i, 1)).collect();
        let w: Vec<f32> = (0..outputs * inputs).map(|i| whole_number(i, 1 << 20)).collect();
        let vector: Vec<f64> = (0..outputs).map(|i| f64::from(whole_number(i, 1 << 21)) * 1024.0 + i as f64).collect();
        let bytes = narrowed(Dtype::F16, &w).expect("the numbers are small");
        let weight = upload(self, &HostTensor::owning(bytes, Dtype::F16, outputs, inputs))?;
        let mut transposed = vec![0.0f64; inputs];
        for (row, factor) in w.chunks_exact(inputs).zip(&vector) {
            transposed.iter_mut().zip(row).for_each(|(sum, &w)| *sum += factor * f64::from(w));
        }
        let dot = |row: &[f32], vector: &[f64]| row.iter().zip(vector).map(|(&a, b)| f64::from(a) * b).sum::<f64>();
        let expected: Vec<f64> = x.chunks_exact(inputs).map(|row| dot(row, &transposed)).collect();
        let x = self.upload(&x, inputs)?;
        let bias: Vec<f32> = (0..outputs).map(|i| whole_number(i, 1 << 22)).collect();
        for time in 0..times {
            // Every other time with a bias.
            let (added, bias) = if time % 2 == 1 { (dot(&bias, &vector), Some(self.upload(&bias, outputs)?)) } else { (0.0, None) };
            let found = self.download(&self.linear(&x, &weight, bias.as_ref())?)?;
            let wrong =
                found.chunks_exact(outputs).zip(&expected).filter(|(row, expected)| dot(row, &vector) != **expected + added).count();
            if wrong > 0 {
                return Err(Error::Device {
                    operation: format!("a first product on {}", self.info.label()),
                    message: format!("{wrong} of {tokens} rows are wrong; update its driver or use another --device"),
                });
            }
        }
        Ok(())
    }
}
