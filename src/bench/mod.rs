//! How fast an engine is: matrix products and whole layers at the shapes of real models, kernels that move data, uploads.
//!
//! Every figure is the median of several runs on warm buffers; a run ends when the device has finished. Reported beside rates is
//! their share of the device's measured peak: multiply-adds in registers for products, `x += y` for kernels that move data. The peak is
//! measured once more after every figure, and the best counts: other work disturbs that measure like any other.

mod layer;
mod timing;

use crate::engine::{AttentionShape, DeviceKind, Engine, MomentsShape};
use crate::error::Result;
use crate::interrupt;
use crate::tensor::Dtype;
use layer::{SHAPES, Shape};
use timing::{median_seconds, multiply_add_rate, noise, random_matrix};

/// One figure.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Measurement {
    /// Kind of work, such as `product f32`.
    pub kind: String,
    /// Shape of the work.
    pub case: String,
    /// Rate.
    pub value: f64,
    /// Of the rate: `GFLOP/s`, `GB/s` or `tokens/s`.
    pub unit: String,
    /// Share of the device's measured peak, where it has one of this unit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub share: Option<f64>,
    /// The rate in the report that it is compared with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<f64>,
}

impl Measurement {
    fn new(kind: &str, case: String, value: f64, unit: &str) -> Self {
        Self { kind: kind.into(), case, value, unit: unit.into(), share: None, before: None }
    }
}

/// The kind of figure in GB/s that goes at the speed of a bus and not of the device's memory.
const UPLOAD: &str = "upload";

/// Gathers an engine's figures.
pub struct Bench<'a, E: Engine> {
    engine: &'a E,
    /// The operands of its products, in words.
    tier: &'a str,
    /// Is told each figure as soon as it is there.
    report: &'a dyn Fn(&Measurement),
    measurements: Vec<Measurement>,
    /// The best rates seen so far: 10^9 operations a second, two for each multiply-add in registers, and 10^9 bytes a second of `x += y`.
    gflops: f64,
    gigabytes: f64,
}

impl<'a, E: Engine> Bench<'a, E> {
    /// Measures with `engine`, the operands of whose products are called `tier`.
    pub fn new(engine: &'a E, tier: &'a str, report: &'a dyn Fn(&Measurement)) -> Self {
        Self { engine, tier, report, measurements: Vec::new(), gflops: 0.0, gigabytes: 0.0 }
    }

    /// All figures, those of a kind that has a peak as shares of it, the peaks first.
    #[must_use]
    pub fn finish(mut self) -> Vec<Measurement> {
        let peaks = [(format!("multiply-adds {}", self.tier), self.gflops, "GFLOP/s"), ("x += y".into(), self.gigabytes, "GB/s")];
        let mut measurements = Vec::new();
        for (case, peak, unit) in peaks.into_iter().filter(|(_, peak, _)| *peak > 0.0) {
            let measurement = Measurement::new("peak", case, peak, unit);
            (self.report)(&measurement);
            measurements.push(measurement);
            for m in self.measurements.iter_mut().filter(|m| m.unit == unit && m.kind != UPLOAD) {
                m.share = Some(m.value / peak);
            }
        }
        measurements.extend(self.measurements);
        measurements
    }

    fn add(&mut self, kind: &str, case: String, value: f64, unit: &str) {
        let measurement = Measurement::new(kind, case, value, unit);
        (self.report)(&measurement);
        self.measurements.push(measurement);
    }

    /// A rate of multiply-adds, and what the device reaches at the moment.
    fn add_products(&mut self, kind: &str, case: String, gflops: f64) -> Result<()> {
        self.add(kind, case, gflops, "GFLOP/s");
        self.gflops = self.gflops.max(multiply_add_rate(self.engine)?);
        Ok(())
    }

    /// What depends on the operands of products: products and a layer.
    pub fn products_and_layer(&mut self) -> Result<()> {
        self.products()?;
        self.layer()
    }

    /// Matrix products at the shapes of 1B, 7B and 70B models' MLPs.
    fn products(&mut self) -> Result<()> {
        for Shape { name, hidden, mlp, .. } in SHAPES {
            let weight = self.engine.upload_matrix(&random_matrix(mlp, hidden, Dtype::F16))?;
            let per_token = 2.0 * (hidden * mlp) as f64;
            let tokens = self.fitting_tokens(4 * mlp, |tokens| {
                let x = self.engine.upload(&noise(tokens * hidden), hidden)?;
                median_seconds(self.engine, 1, || self.engine.linear(&x, &weight, None))
            })?;
            let x = self.engine.upload(&noise(tokens * hidden), hidden)?;
            let seconds = median_seconds(self.engine, 5, || self.engine.linear(&x, &weight, None))?;
            let case = format!("{name}: [{tokens}, {hidden}] by [{mlp}, {hidden}]");
            self.add_products(&format!("product {}", self.tier), case, per_token * tokens as f64 / seconds / 1e9)?;
        }
        Ok(())
    }

    /// As many tokens as the engine takes at a time, or fewer where a run would take longer than a second and a half.
    fn fitting_tokens(&self, widest_bytes: usize, run: impl FnOnce(usize) -> Result<f64>) -> Result<usize> {
        const FIRST: usize = 32;
        const SECONDS: f64 = 1.5;
        interrupt::check()?;
        let seconds = run(FIRST)?;
        let affordable = (FIRST as f64 * SECONDS / seconds.max(1e-6)) as usize;
        let bindable = (self.engine.info().max_binding_bytes / widest_bytes as u64) as usize;
        let fitting = affordable.min(bindable).min(self.engine.info().default_batch_tokens).max(FIRST);
        // Powers of two only: another run finds the same case.
        Ok(1 << fitting.ilog2())
    }

    /// Kernels that are bound by memory: bytes read and written.
    pub fn moving(&mut self) -> Result<()> {
        const COLUMNS: usize = 4096;
        // Of a tensor that no cache holds.
        const BYTES: u64 = 128 << 20;
        let engine = self.engine;
        // Whole windows of 128 tokens.
        let rows = BYTES.min(engine.info().max_binding_bytes) as usize / (4 * COLUMNS) / 128 * 128;
        let mut x = engine.upload(&noise(rows * COLUMNS), COLUMNS)?;
        let y = engine.upload(&noise(rows * COLUMNS), COLUMNS)?;
        let mut sum = engine.zeros(rows, COLUMNS)?;
        let line = engine.upload(&noise(COLUMNS), COLUMNS)?;
        // What works in place does so again and again: a rotation, and a factor with which silu neither grows nor fades away. Processors
        // are slow where numbers are too small to be normal.
        let table = engine.upload(&[[0.6; 64], [0.8; 64]].as_flattened().repeat(rows), 128)?;
        let up = engine.upload(&vec![-2.0; rows * COLUMNS], COLUMNS)?;
        let matrix = engine.upload_matrix(&random_matrix(rows, COLUMNS, Dtype::F16))?;
        let mut moments =
            engine.moments(MomentsShape { channels: COLUMNS, windows: rows / 128, window_tokens: 128, windows_per_slot: 1 })?;
        let mut add = |kind: &str, passes: f64, seconds: f64| -> Result<()> {
            let bytes = (4 * rows * COLUMNS) as f64;
            self.add(kind, format!("[{rows}, {COLUMNS}]"), passes * bytes / seconds / 1e9, "GB/s");
            let seconds = median_seconds(engine, 5, || engine.add(&mut sum, &y))?;
            self.gigabytes = self.gigabytes.max(3.0 * bytes / seconds / 1e9);
            Ok(())
        };
        add("rms_norm", 2.0, median_seconds(engine, 7, || engine.rms_norm(&x, &line, 1e-5))?)?;
        add("swiglu", 3.0, median_seconds(engine, 7, || engine.swiglu(&mut x, &up))?)?;
        add("rope", 2.0, median_seconds(engine, 7, || engine.rope(&mut x, &table, rows))?)?;
        add("moments", 1.0, median_seconds(engine, 7, || engine.accumulate(&mut moments, &y, 0))?)?;
        add("column_norms", 0.5, median_seconds(engine, 7, || engine.column_norms(&matrix))?)
    }

    /// Causal attention at a 7B model's shape, counting only the visible half of the scores; named `kind`.
    pub fn attention(&mut self, kind: &str) -> Result<()> {
        let engine = self.engine;
        for window_tokens in [128, 2048] {
            let shape = AttentionShape { window_tokens, heads: 32, key_value_heads: 32, head_dim: 128, sliding_window: None };
            let columns = shape.heads * shape.head_dim;
            let tokens = engine.info().default_batch_tokens.min(2048).max(window_tokens) / window_tokens * window_tokens;
            let [q, k, v] = [0; 3].map(|_| engine.upload(&noise(tokens * columns), columns));
            let (q, k, v) = (q?, k?, v?);
            interrupt::check()?;
            let seconds = median_seconds(engine, 3, || {
                // In a layer they are new each time.
                [&q, &k, &v].into_iter().for_each(|tensor| engine.forget_operands(tensor));
                engine.attention(&q, &k, &v, shape)
            })?;
            let flops = 4.0 * (tokens * columns) as f64 * (window_tokens as f64 + 1.0) / 2.0;
            self.add_products(kind, format!("{tokens} tokens in windows of {window_tokens}"), flops / seconds / 1e9)?;
        }
        Ok(())
    }

    /// The Gram matrix of as many channels as a 7B model's hidden states have, counting the half that is summed.
    pub fn gram_matrix(&mut self) -> Result<()> {
        const CHANNELS: usize = 4096;
        let engine = self.engine;
        let mut sum = engine.zeros(CHANNELS, CHANNELS)?;
        let mut seconds = |tokens: usize, runs: usize| {
            let x = engine.upload(&noise(tokens * CHANNELS), CHANNELS)?;
            median_seconds(engine, runs, || engine.add_cross(&mut sum, &x, 0..CHANNELS, &x, true))
        };
        let tokens = self.fitting_tokens(4 * CHANNELS, |tokens| seconds(tokens, 1))?;
        let flops = (tokens * CHANNELS * (CHANNELS + 1)) as f64;
        let seconds = seconds(tokens, 3)?;
        self.add_products("gram matrix", format!("{tokens} tokens of {CHANNELS} channels"), flops / seconds / 1e9)
    }

    /// One decoder layer of a 7B model with calibration, windows of 128 tokens.
    fn layer(&mut self) -> Result<()> {
        const WINDOW: usize = 128;
        let shape = SHAPES[1];
        let layer = layer::LayerBench::new(self.engine, shape)?;
        let tokens = self.fitting_tokens(4 * shape.mlp, |tokens| {
            let windows = tokens.div_ceil(WINDOW);
            Ok(layer.run(windows, WINDOW, 1)? * tokens as f64 / (windows * WINDOW) as f64)
        })?;
        let windows = (tokens / WINDOW).max(1);
        let seconds = layer.run(windows, WINDOW, 3)?;
        let rate = (windows * WINDOW) as f64 / seconds;
        let case = format!("{} {}, {windows} windows of {WINDOW}", shape.name, self.tier);
        self.add("decoder layer", case.clone(), rate, "tokens/s");
        self.add_products("decoder layer", case, rate * shape.flops_per_token() / 1e9)
    }

    /// Bringing a matrix to the device; the CPU engine has it there already.
    pub fn upload(&mut self) -> Result<()> {
        if self.engine.info().kind == DeviceKind::Cpu {
            return Ok(());
        }
        let matrix = random_matrix(4096, 4096, Dtype::F16);
        let seconds = median_seconds(self.engine, 5, || self.engine.upload_matrix(&matrix))?;
        self.add(UPLOAD, "[4096, 4096] f16".into(), matrix.bytes.as_ref().len() as f64 / seconds / 1e9, "GB/s");
        Ok(())
    }
}
