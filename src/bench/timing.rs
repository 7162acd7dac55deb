//! Timing, peaks, and numbers to work on.

use crate::engine::Engine;
use crate::engine::cpu::{Arithmetic, CpuEngine};
use crate::engine::gpu::GpuEngine;
use crate::error::Result;
use crate::tensor::{Dtype, HostTensor, narrowed};
use rayon::prelude::*;
use std::time::Instant;

/// Bytes of a tensor that no cache holds.
pub const STREAM_BYTES: usize = 128 << 20;

/// What a device reaches at best, measured.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    /// Multiply-adds, counted as two operations: 10^9 a second.
    pub gflops: f64,
    /// Bytes read and written by `x += y`: 10^9 a second.
    pub gigabytes: f64,
}

impl Peak {
    /// Of a GPU: chains of multiply-adds in registers, or of products on its matrix units where the engine uses them.
    pub fn of_gpu(engine: &GpuEngine) -> Result<Self> {
        Ok(Self { gflops: on_device(engine)?, gigabytes: stream_rate(engine)? })
    }

    /// With the products of another engine on the same device.
    pub fn with_products_of(self, engine: &GpuEngine) -> Result<Self> {
        Ok(Self { gflops: on_device(engine)?, ..self })
    }

    /// Of the CPU: the same on every thread.
    pub fn of_cpu(engine: &CpuEngine) -> Result<Self> {
        Ok(Self { gflops: on_every_thread(|rounds| Arithmetic::Library.in_registers(rounds)), gigabytes: stream_rate(engine)? })
    }

    /// With another arithmetic of the CPU, as many products for one of f16 weights as it takes.
    #[must_use]
    pub fn with_arithmetic(self, arithmetic: Arithmetic) -> Self {
        let gflops = on_every_thread(|rounds| arithmetic.in_registers(rounds)) / arithmetic.products_of_one(Dtype::F16) as f64;
        Self { gflops, ..self }
    }
}

/// 10^9 operations a second of a GPU, two for each multiply-add.
fn on_device(engine: &GpuEngine) -> Result<f64> {
    // The kernel is made at its first use.
    engine.multiply_adds(1)?;
    let mut rounds = 16;
    loop {
        let begin = Instant::now();
        let operations = engine.multiply_adds(rounds)?;
        let seconds = begin.elapsed().as_secs_f64();
        if seconds > 0.1 || rounds >= 1 << 16 {
            return Ok(2.0 * operations as f64 / seconds / 1e9);
        }
        rounds *= 4;
    }
}

/// 10^9 operations a second of all threads together, two for each multiply-add that `run` says it made in a number of rounds.
fn on_every_thread(run: impl Fn(u64) -> u64 + Sync) -> f64 {
    const ROUNDS: u64 = 20_000_000;
    let begin = Instant::now();
    let operations: u64 = rayon::broadcast(|_| run(ROUNDS)).into_iter().sum();
    2.0 * operations as f64 / begin.elapsed().as_secs_f64() / 1e9
}

/// `x += y` over tensors larger than caches: two reads and a write.
fn stream_rate<E: Engine>(engine: &E) -> Result<f64> {
    let count = STREAM_BYTES.min(engine.info().max_binding_bytes as usize) / 4;
    let mut x = engine.upload(&noise(count), 1)?;
    let y = engine.upload(&noise(count), 1)?;
    let seconds = median_seconds(engine, 5, || engine.add(&mut x, &y))?;
    Ok(12.0 * count as f64 / seconds / 1e9)
}

/// Median seconds of one call. Calls are queued together until they take a while, so that waiting for the device costs little.
pub fn median_seconds<E: Engine, T>(engine: &E, runs: usize, mut call: impl FnMut() -> Result<T>) -> Result<f64> {
    const LONG_ENOUGH: f64 = 0.05;
    // Kernels are made at their first use, and a device that had nothing to do runs slowly at first.
    const WARM_UP: f64 = 0.2;
    let mut time = |calls: usize| -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..calls {
            // A result that nobody looks at might not be computed.
            std::hint::black_box(call()?);
        }
        // Waits for the device.
        engine.all_finite(&[])?;
        Ok(begin.elapsed().as_secs_f64() / calls as f64)
    };
    let begin = Instant::now();
    let mut once = time(1)?;
    while begin.elapsed().as_secs_f64() < WARM_UP {
        once = time(1)?;
    }
    let calls = (LONG_ENOUGH / once.max(1e-6)).clamp(1.0, 1000.0) as usize;
    let mut seconds = (0..runs).map(|_| time(calls)).collect::<Result<Vec<_>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[runs / 2])
}

/// Numbers in [-1, 1) without pattern; the same every time.
pub fn noise(count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let mixed = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ (mixed >> 29)) & 0xff_ffff) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).into_par_iter().map(number).collect()
}

/// A matrix of such numbers, scaled so that products keep the size of their input.
pub fn random_matrix(rows: usize, columns: usize, dtype: Dtype) -> HostTensor {
    const LINES: usize = 4096;
    let scale = (3.0 / columns as f32).sqrt();
    let mut bytes = Vec::with_capacity(rows * columns * dtype.size());
    // A few thousand rows of noise, repeated: making gigabytes of it would take longer than the measurement.
    let numbers: Vec<f32> = noise(columns + LINES).iter().map(|number| number * scale).collect();
    let line = narrowed(dtype, &numbers).expect("small numbers");
    (0..rows).for_each(|row| bytes.extend_from_slice(&line[row % LINES * dtype.size()..][..columns * dtype.size()]));
    HostTensor::owning(bytes, dtype, rows, columns)
}
