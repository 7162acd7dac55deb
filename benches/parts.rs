//! Timings of the parts, to see what a change does to them: `cargo bench`, or `cargo bench -- search` for one part.
//!
//! For whole devices at the shapes of real models see `flap-gpu bench`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flap_gpu::checkpoint::gguf::{GgufHeader, GgufWriter, q8_0};
use flap_gpu::checkpoint::{SafetensorsWriter, Storage, TensorHeader};
use flap_gpu::compaction::Slice;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::engine::{AttentionShape, Engine, MomentsShape};
use flap_gpu::search::{LayerScores, Problem, Structure};
use flap_gpu::tensor::{Dtype, HostTensor, narrowed};
use std::collections::BTreeMap;
use std::hint::black_box;

/// Numbers in [0, 1) without pattern.
fn noise(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as u32).wrapping_mul(2_654_435_769) as f32 / u32::MAX as f32).collect()
}

fn matrix(rows: usize, columns: usize, dtype: Dtype) -> HostTensor {
    HostTensor::owning(narrowed(dtype, &noise(rows * columns)).expect("small numbers"), dtype, rows, columns)
}

fn kernels(c: &mut Criterion) {
    let engine = CpuEngine::default();
    let mut group = c.benchmark_group("kernels");
    group.sample_size(10);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let (tokens, inputs, outputs) = (256, 2048, 2048);
        let x = engine.upload(&noise(tokens * inputs), inputs).unwrap();
        let weight = engine.upload_matrix(&matrix(outputs, inputs, dtype)).unwrap();
        group.throughput(Throughput::Elements((2 * tokens * inputs * outputs) as u64));
        group.bench_function(BenchmarkId::new("linear", dtype.name()), |b| {
            b.iter(|| black_box(engine.linear(&x, &weight, None).unwrap()));
        });
    }
    let shape = AttentionShape { window_tokens: 128, heads: 32, key_value_heads: 8, head_dim: 64, sliding_window: None };
    let up = |heads: usize| engine.upload(&noise(512 * heads * 64), heads * 64).unwrap();
    let (q, k, v) = (up(32), up(8), up(8));
    group.throughput(Throughput::Elements(512));
    group.bench_function("attention", |b| b.iter(|| black_box(engine.attention(&q, &k, &v, shape).unwrap())));
    group.finish();
}

fn moments(c: &mut Criterion) {
    let engine = CpuEngine::default();
    let (channels, windows, window_tokens) = (11008, 8, 128);
    let x = engine.upload(&noise(channels * windows * window_tokens), channels).unwrap();
    let mut moments = engine.moments(MomentsShape { channels, windows, window_tokens, windows_per_slot: 4 }).unwrap();
    let mut group = c.benchmark_group("moments");
    group.throughput(Throughput::Bytes((4 * channels * windows * window_tokens) as u64));
    group.bench_function("accumulate", |b| b.iter(|| engine.accumulate(&mut moments, &x, 0).unwrap()));
    group.finish();
}

fn search(c: &mut Criterion) {
    // A 7B model: 32 layers of 32 heads and 11008 neurons.
    let scores = |seed: usize, count: usize| noise(count + seed).into_iter().skip(seed).map(f64::from).collect::<Vec<_>>();
    let layer = |i: usize| LayerScores { attention: scores(i, 4096), mlp: scores(i + 7, 11008), units: 32 };
    let problem = Problem {
        layers: (0..32).map(layer).collect(),
        unit_parameters: vec![4 * 128 * 4096; 32],
        neuron_parameters: 3 * 4096,
        ratio: 0.2,
        remove_units: 40,
        round_neurons: 1,
        round_units: 1,
        uniform_units: None,
        strict: false,
    };
    for (name, structure) in
        [("al-am", Structure::AlAm), ("al-mm", Structure::AlMm), ("ul-um", Structure::UlUm), ("ul-mm", Structure::UlMm)]
    {
        c.bench_function(&format!("search/{name}"), |b| b.iter(|| black_box(problem.search(structure).unwrap())));
    }
}

fn slicing(c: &mut Criterion) {
    let tensor = matrix(4096, 4096, Dtype::F16);
    let kept: Vec<usize> = (0..32).filter(|head| head % 5 != 2).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("slicing");
    let whole = || Slice::whole([tensor.rows, tensor.columns]);
    for (name, slice) in [("rows", whole().rows(&kept, 128)), ("columns", whole().columns(&kept, 128))] {
        let [rows, columns] = slice.shape();
        let bytes = 2 * rows * columns;
        let header = TensorHeader { name: "w".into(), dtype: "F16".into(), shape: vec![rows, columns], bytes };
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("write safetensors", name), |b| {
            b.iter(|| {
                let path = folder.path().join("w.safetensors");
                let mut writer = SafetensorsWriter::create(&path, std::slice::from_ref(&header), &BTreeMap::new()).unwrap();
                slice.write(&tensor, &mut |bytes| writer.write(bytes)).unwrap();
                writer.finish().unwrap();
            });
        });
    }
    group.finish();
}

fn writing_gguf(c: &mut Criterion) {
    let values = noise(4096 * 4096);
    let folder = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("GGUF");
    group.throughput(Throughput::Bytes(4 * values.len() as u64));
    let header = GgufHeader { name: "w".into(), shape: vec![4096, 4096], storage: Storage::Q8_0 };
    group.bench_function("quantise to Q8_0 and write", |b| {
        b.iter(|| {
            let mut blocks = Vec::new();
            q8_0::encode(&values, &mut blocks);
            let mut writer = GgufWriter::create(&folder.path().join("w.gguf"), &[], std::slice::from_ref(&header)).unwrap();
            writer.write(&blocks).unwrap();
            writer.end_tensor().unwrap();
            writer.finish().unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, kernels, moments, search, slicing, writing_gguf);
criterion_main!(benches);
