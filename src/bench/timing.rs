//! Timing, what a device reaches at best, and numbers to work on.

use crate::engine::Engine;
use crate::error::Result;
use crate::tensor::{Dtype, HostTensor, narrowed};
use rayon::prelude::*;
use std::time::Instant;

/// What the device reaches at the moment with its products' multiply-adds in registers: 10^9 operations a second, two for each.
pub fn multiply_add_rate<E: Engine>(engine: &E) -> Result<f64> {
    const LONG_ENOUGH: f64 = 0.1;
    // The kernel is made at its first use.
    engine.multiply_adds(1)?;
    let mut rounds = 16;
    loop {
        let begin = Instant::now();
        let count = engine.multiply_adds(rounds)?;
        let seconds = begin.elapsed().as_secs_f64();
        if seconds > LONG_ENOUGH || rounds >= 1 << 30 {
            return Ok(2.0 * count as f64 / seconds / 1e9);
        }
        rounds *= 4;
    }
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
