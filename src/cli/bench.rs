//! `flap-gpu bench`.

use super::args::{BenchArguments, Common};
use super::terminal::{Terminal, table};
use crate::bench::{Bench, Measurement};
use crate::disk::{OutputFile, files};
use crate::engine::cpu::{Arithmetic, CpuEngine, Unit};
use crate::engine::gpu::{self, Products};
use crate::engine::{AnyEngine, DeviceChoice, Engine, Precision, select};
use crate::error::Error;
use crate::tensor::Dtype;
use anyhow::Result;
use serde_json::json;

const FORMAT: &str = "flap-gpu-bench";

/// All figures of one device.
#[derive(serde::Serialize, serde::Deserialize)]
struct DeviceFigures {
    device: String,
    measurements: Vec<Measurement>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Report {
    format: String,
    version: String,
    devices: Vec<DeviceFigures>,
}

impl Report {
    /// Sets each figure beside that of the same device and case.
    fn compare(&mut self, earlier: &Self, terminal: &Terminal) {
        for figures in &mut self.devices {
            let Some(device) = earlier.devices.iter().find(|device| device.device == figures.device) else {
                let there: Vec<&str> = earlier.devices.iter().map(|device| device.device.as_str()).collect();
                terminal.note(&format!("{} is not in the report to compare with, which has: {}", figures.device, there.join("; ")));
                continue;
            };
            for m in &mut figures.measurements {
                let same = |e: &&Measurement| (&e.kind, &e.case, &e.unit) == (&m.kind, &m.case, &m.unit);
                m.before = device.measurements.iter().find(same).map(|e| e.value);
            }
        }
    }
}

pub fn run(args: &BenchArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    if common.memory_budget.is_some() || common.precision != Precision::Auto {
        return Err(
            Error::input("bench measures every precision, in the memory that it takes: leave --precision and --memory-budget out").into()
        );
    }
    let earlier = args.compare.as_deref().map(|path| {
        let report: Report = files::read_json(path)?;
        if report.format == FORMAT { Ok(report) } else { Err(Error::file(path, "is not a report of `flap-gpu bench --json`")) }
    });
    let earlier = earlier.transpose()?;
    let output = args.output.as_deref().map(|path| OutputFile::create(path, &[], common.force)).transpose()?;
    let devices = if common.device == DeviceChoice::Auto {
        // Software drivers take minutes and say little; they are measured when named.
        let adapters = gpu::list().into_iter().enumerate().filter(|(_, adapter)| adapter.device_type != "Cpu");
        let mut devices = vec![measure_cpu(terminal)?];
        for (index, adapter) in adapters {
            match measure_gpu(&DeviceChoice::Gpu(index), terminal) {
                Ok(figures) => devices.push(figures),
                Err(error) if matches!(error.downcast_ref(), Some(Error::Interrupted)) => return Err(error),
                // What the others gave is not lost.
                Err(error) => terminal.note(&format!("{} is left out: {error:#}", adapter.name)),
            }
        }
        devices
    } else if common.device == DeviceChoice::Cpu {
        vec![measure_cpu(terminal)?]
    } else {
        vec![measure_gpu(&common.device, terminal)?]
    };
    let mut report = Report { format: FORMAT.into(), version: env!("CARGO_PKG_VERSION").into(), devices };
    if let Some(earlier) = &earlier {
        report.compare(earlier, terminal);
    }
    if let Some(output) = output {
        output.commit_json(&report)?;
    }
    terminal.result(&json!(report), || report.devices.iter().map(|d| text(d, earlier.is_some())).collect::<Vec<_>>().join("\n"))
}

fn measure_cpu(terminal: &Terminal) -> Result<DeviceFigures> {
    let engine = CpuEngine::new(Arithmetic::Library);
    let device = engine.info().label();
    let report = |m: &Measurement| note(terminal, &device, m);
    let mut measurements = whole(&engine, &report)?;
    // Again with what the engine does by itself, and with bf16 products, where the processor has them.
    let f32_tier = match Arithmetic::fastest_f32() {
        Arithmetic::F32(Unit::Amx) => Some("f32 in parts"),
        Arithmetic::F32(_) => Some("f32 packed"),
        Arithmetic::Library | Arithmetic::Bf16(_) => None,
    };
    let bf16 = Unit::fastest_of_bf16();
    let tiers = [
        f32_tier.map(|tier| (Arithmetic::fastest_f32(), tier)),
        (bf16.multiplies() == Dtype::Bf16).then_some((Arithmetic::Bf16(bf16), "bf16")),
    ];
    for (arithmetic, tier) in tiers.into_iter().flatten() {
        let engine = CpuEngine::new(arithmetic);
        let mut bench = Bench::new(&engine, tier, &report);
        bench.products_and_layer()?;
        measurements.extend(bench.finish());
    }
    Ok(DeviceFigures { device, measurements })
}

fn measure_gpu(choice: &DeviceChoice, terminal: &Terminal) -> Result<DeviceFigures> {
    let AnyEngine::Gpu(engine) = select(choice, Precision::F32)? else { unreachable!("a GPU was asked for") };
    let device = engine.info().label();
    let report = |m: &Measurement| note(terminal, &device, m);
    let mut measurements = whole(&engine, &report)?;
    // Its memory is needed below.
    drop(engine);
    // The same adapter again with f16 operands, where it has them.
    match select(choice, Precision::F16) {
        Ok(AnyEngine::Gpu(engine)) => {
            let (tier, has_units) = match engine.products() {
                Products::Cooperative { side, .. } => (format!("f16, matrix units {side} x {side}"), true),
                Products::F16 | Products::F32 => ("f16".to_string(), false),
            };
            let mut bench = Bench::new(&engine, &tier, &report);
            bench.products_and_layer()?;
            if has_units {
                bench.attention(&format!("attention {tier}"))?;
            }
            measurements.extend(bench.finish());
        }
        Ok(AnyEngine::Cpu(_)) => unreachable!("a GPU was asked for"),
        Err(Error::Unsupported(_)) => {}
        Err(error) => terminal.note(&format!("f16 is left out: {error}")),
    }
    Ok(DeviceFigures { device, measurements })
}

/// All figures of a device, with products of f32.
fn whole<E: Engine>(engine: &E, report: &dyn Fn(&Measurement)) -> Result<Vec<Measurement>> {
    let mut bench = Bench::new(engine, "f32", report);
    bench.products_and_layer()?;
    bench.attention("attention")?;
    bench.gram_matrix()?;
    bench.moving()?;
    bench.upload()?;
    Ok(bench.finish())
}

fn note(terminal: &Terminal, device: &str, m: &Measurement) {
    terminal.note(&format!("{device}: {} {}: {} {}", m.kind, m.case, rate(m.value), m.unit));
}

/// Three digits that matter.
fn rate(value: f64) -> String {
    let digits = (2 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 3) as usize;
    format!("{value:.digits$}")
}

fn text(figures: &DeviceFigures, compared: bool) -> String {
    let row = |m: &Measurement| {
        let share = m.share.map_or(String::new(), |share| format!("{:.0} %", 100.0 * share));
        let mut row = vec![m.kind.clone(), m.case.clone(), rate(m.value), m.unit.clone(), share];
        if compared {
            row.push(m.before.map_or("-".into(), |before| format!("{:.2} x", m.value / before)));
        }
        row
    };
    let mut header = vec!["work", "case", "rate", "unit", "of peak"];
    header.extend(compared.then_some("against before"));
    format!("{}\n{}", figures.device, table(&header, figures.measurements.iter().map(row).collect()))
}
