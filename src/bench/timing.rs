//! Timing, peaks, and numbers to work on.

use crate::engine::cpu::CpuEngine;
use crate::engine::gpu::GpuEngine;
use crate::engine::{Dtype, Engine, HostTensor, SharedBytes};
use crate::error::Result;
use rayon::prelude::*;
use std::sync::Arc;
use std::time::Instant;

/// What a device reaches at best, measured.
#[derive(Debug, Clone, Copy)]
pub struct Peak {
    /// f32 multiply-adds, counted as two operations: 10^9 a second.
    pub gflops: f64,
    /// Bytes read and written by a copy: 10^9 a second.
    pub gigabytes: f64,
}

impl Peak {
    /// Of a GPU: chains of multiply-adds in registers.
    pub fn of_gpu(engine: &GpuEngine) -> Result<Self> {
        let mut rounds = 16;
        loop {
            let begin = Instant::now();
            let operations = engine.multiply_adds(rounds)?;
            let seconds = begin.elapsed().as_secs_f64();
            if seconds > 0.1 || rounds >= 1 << 16 {
                return Ok(Self { gflops: 2.0 * operations as f64 / seconds / 1e9, gigabytes: copy_rate(engine)? });
            }
            rounds *= 4;
        }
    }

    /// Of the CPU: products of matrices that stay in each core's cache.
    pub fn of_cpu(engine: &CpuEngine) -> Result<Self> {
        const SIDE: usize = 192;
        let flops = || {
            let (a, b) = (noise(SIDE * SIDE), noise(SIDE * SIDE));
            let mut c = vec![0.0; SIDE * SIDE];
            let begin = Instant::now();
            let mut count = 0.0;
            while begin.elapsed().as_secs_f64() < 0.3 {
                crate::engine::cpu::cached_product(&a, &b, &mut c, SIDE);
                std::hint::black_box(&mut c);
                count += 1.0;
            }
            count * 2.0 * (SIDE * SIDE * SIDE) as f64 / begin.elapsed().as_secs_f64()
        };
        let gflops: f64 = rayon::broadcast(|_| flops()).into_iter().sum::<f64>() / 1e9;
        Ok(Self { gflops, gigabytes: copy_rate(engine)? })
    }
}

fn copy_rate<E: Engine>(engine: &E) -> Result<f64> {
    let count = 16 << 20;
    let tensor = engine.upload(&noise(count), 4096)?;
    let seconds = median_seconds(engine, 7, || engine.copy(&tensor).map(drop))?;
    Ok(8.0 * count as f64 / seconds / 1e9)
}

/// Median seconds of one call. Calls are queued together until they take a while, so that waiting for the device costs little.
pub fn median_seconds<E: Engine>(engine: &E, runs: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    const LONG_ENOUGH: f64 = 0.02;
    let mut time = |calls: usize| -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        // Waits for the device.
        engine.all_finite(&[])?;
        Ok(begin.elapsed().as_secs_f64() / calls as f64)
    };
    let first = time(1)?;
    let calls = (LONG_ENOUGH / first.max(1e-6)).clamp(1.0, 1000.0) as usize;
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
    let scale = (3.0 / columns as f32).sqrt();
    let mut bytes = Vec::with_capacity(rows * columns * dtype.size());
    // A few thousand rows of noise, repeated: making gigabytes of it would take longer than the measurement.
    let line = noise(columns + 4096);
    for row in 0..rows {
        line[row % 4096..][..columns].iter().for_each(|v| dtype.push(v * scale, &mut bytes));
    }
    let length = bytes.len();
    HostTensor::new(SharedBytes::new(Arc::new(bytes), 0..length), dtype, rows, columns)
}
