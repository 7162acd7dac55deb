//! Choosing an engine by name.

use super::cpu::{Arithmetic, CpuEngine, Unit};
use super::gpu::{self, AdapterChoice, GpuEngine};
use super::{DeviceInfo, Engine};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor};
use std::time::Instant;

/// What `--device` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The most capable real GPU, else the CPU, or where the GPU is part of a processor that is faster.
    Auto,
    /// The native engine.
    Cpu,
    /// `gpu` or `gpu:N`: an adapter by its place in `flap-gpu devices`.
    Gpu(usize),
    /// Part of an adapter's name.
    Name(String),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "" => return Err("the device name is empty".into()),
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu(0),
            lower => match lower.strip_prefix("gpu:") {
                Some(index) => Self::Gpu(index.parse().map_err(|_| format!("`{index}` is not an adapter's number"))?),
                None => Self::Name(text.to_string()),
            },
        })
    }
}

/// What `--precision` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Precision {
    /// f16 on real GPUs with matrix units, f32 otherwise.
    #[default]
    Auto,
    /// Products of f32 numbers.
    F32,
    /// Products of f16 numbers with f32 sums, on a GPU.
    F16,
    /// Products of bf16 numbers with f32 sums, on the CPU.
    Bf16,
}

/// One of the two engines.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a program")]
pub enum AnyEngine {
    /// Native.
    Cpu(CpuEngine),
    /// On wgpu.
    Gpu(GpuEngine),
}

impl AnyEngine {
    /// Stays within so many bytes of device memory.
    #[must_use]
    pub fn with_memory_budget(self, bytes: u64) -> Self {
        match self {
            Self::Cpu(engine) => Self::Cpu(engine.with_memory_budget(bytes)),
            Self::Gpu(engine) => Self::Gpu(engine.with_memory_budget(bytes)),
        }
    }

    /// What it runs on.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        match self {
            Self::Cpu(engine) => engine.info(),
            Self::Gpu(engine) => engine.info(),
        }
    }
}

/// Opens the chosen engine.
///
/// # Errors
/// If the name fits no adapter (the message lists what there is), the device cannot be opened, or the precision is not offered.
pub fn select(choice: &DeviceChoice, precision: Precision) -> Result<AnyEngine> {
    let (adapter, wanted) = match choice {
        DeviceChoice::Cpu => return open_cpu(precision),
        // No GPU multiplies in bf16 here: who asks for it asks for the CPU.
        DeviceChoice::Auto if precision == Precision::Bf16 => return open_cpu(precision),
        DeviceChoice::Auto => {
            let engine = GpuEngine::open(AdapterChoice::RealGpu, precision)?;
            return engine.map_or_else(|| open_cpu(precision), |engine| unless_slower(engine, precision));
        }
        DeviceChoice::Gpu(index) => (AdapterChoice::Index(*index), format!("gpu:{index}")),
        DeviceChoice::Name(part) => (AdapterChoice::Name(part), format!("`{part}`")),
    };
    if let Some(engine) = GpuEngine::open(adapter, precision)? {
        return Ok(AnyEngine::Gpu(engine));
    }
    let mut there: Vec<String> = vec!["cpu".into()];
    there.extend(gpu::list().iter().enumerate().map(|(i, a)| format!("gpu:{i} ({}, {})", a.name, a.backend)));
    Err(Error::input(format!("no device matches {wanted}; there are: {}", there.join(", "))))
}

/// How much faster than a GPU the CPU must be to be taken: small differences are noise, and a GPU leaves the processor to others.
const CLEARLY: f64 = 1.2;

/// The GPU, unless it is part of a processor that multiplies faster itself; always, if f16 is asked for, which only GPUs multiply here.
///
/// # Errors
/// If the device fails.
pub fn unless_slower(gpu: GpuEngine, precision: Precision) -> Result<AnyEngine> {
    if gpu.is_card() || precision == Precision::F16 {
        return Ok(AnyEngine::Gpu(gpu));
    }
    let cpu = CpuEngine::default();
    let [of_gpu, of_cpu] = [product_rate(&gpu)?, product_rate(&cpu)?];
    tracing::info!("{}: {of_gpu:.0} GFLOP/s, {}: {of_cpu:.0} GFLOP/s", gpu.info().label(), cpu.info().label());
    if of_cpu < CLEARLY * of_gpu {
        return Ok(AnyEngine::Gpu(gpu));
    }
    tracing::warn!(
        "{} multiplies at {of_gpu:.0} GFLOP/s, and the CPU at {of_cpu:.0}: computing on the CPU; --device gpu takes the GPU",
        gpu.info().label()
    );
    Ok(AnyEngine::Cpu(cpu))
}

/// 10^9 operations a second of a product like those of a small model's layer, at best: two for each multiply-add.
///
/// # Errors
/// If the device fails.
pub fn product_rate<E: Engine>(engine: &E) -> Result<f64> {
    const TOKENS: usize = 512;
    const SIDE: usize = 1024;
    // Kernels are built at their first use, and a device that had nothing to do runs slowly at first.
    const WARM_UP: f64 = 0.05;
    const ROUNDS: usize = 3;
    let x = engine.zeros(TOKENS, SIDE)?;
    let weight = engine.upload_matrix(&HostTensor::owning(vec![0; 2 * SIDE * SIDE], Dtype::F16, SIDE, SIDE))?;
    let seconds = || -> Result<f64> {
        let begin = Instant::now();
        let y = engine.linear(&x, &weight, None)?;
        // Waits for the device.
        engine.all_finite(&[&y])?;
        Ok(begin.elapsed().as_secs_f64())
    };
    let begin = Instant::now();
    seconds()?;
    while begin.elapsed().as_secs_f64() < WARM_UP {
        seconds()?;
    }
    let best = (0..ROUNDS).map(|_| seconds()).try_fold(f64::INFINITY, |best, seconds| Ok(best.min(seconds?)))?;
    Ok((2 * TOKENS * SIDE * SIDE) as f64 / best / 1e9)
}

fn open_cpu(precision: Precision) -> Result<AnyEngine> {
    Ok(AnyEngine::Cpu(match precision {
        Precision::F16 => {
            return Err(Error::Unsupported("the CPU engine multiplies in f32 or bf16; use --precision f32, bf16 or auto".into()));
        }
        Precision::Auto | Precision::F32 => CpuEngine::default(),
        Precision::Bf16 => {
            let unit = Unit::fastest_of_bf16();
            if unit.multiplies() != Dtype::Bf16 {
                tracing::warn!("this processor has no bf16 products (AMX, AVX-512 BF16): --precision bf16 is no faster than f32 here");
            }
            CpuEngine::new(Arithmetic::Bf16(unit))
        }
    }))
}
