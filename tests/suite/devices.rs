//! Which device `--device auto` takes.

use crate::support::gpu_with;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::engine::{AnyEngine, Precision, product_rate, unless_slower};

/// A driver in software is slower than the CPU engine, and so is some a GPU that is part of a processor.
#[test]
fn the_faster_device_is_taken() {
    let Some(gpu) = gpu_with(Precision::Auto) else { return };
    let (is_card, ratio) = (gpu.is_card(), product_rate(&CpuEngine::default()).unwrap() / product_rate(&gpu).unwrap());
    let takes_cpu = matches!(unless_slower(gpu, Precision::Auto).unwrap(), AnyEngine::Cpu(_));
    // Between them, one measurement may differ from the next.
    if is_card || ratio < 0.8 {
        assert!(!takes_cpu, "the CPU is {ratio:.2} times as fast");
    } else if ratio > 2.0 {
        assert!(takes_cpu, "the CPU is {ratio:.2} times as fast");
    }
    let gpu = gpu_with(Precision::F16).filter(|gpu| !gpu.is_card());
    assert!(gpu.is_none_or(|gpu| matches!(unless_slower(gpu, Precision::F16), Ok(AnyEngine::Gpu(_)))), "f16 was asked for");
}
