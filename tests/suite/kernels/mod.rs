//! Every operation on both engines against a plain computation in f64.

mod cases;
mod definitions;
mod sixteen_bits;
mod units;

use crate::support::{gpu, gpu_with, noise, normalised_squared_error, on_both_engines};
use Case::*;

use cases::{CASES, Case};
use definitions::matrix;
use flap_gpu::engine::gpu::Form;
use flap_gpu::engine::{AttentionShape, Engine, Precision};
use flap_gpu::tensor::Dtype::F16;
use flap_gpu::tensor::HostTensor;

fn check<E: Engine>(engine: &E, case: Case, tolerance: f64) {
    let reference: Vec<f32> = case.reference().into_iter().map(|v| v as f32).collect();
    let error = normalised_squared_error(&case.run(engine), &reference);
    assert!(error <= tolerance, "{case:?} on {}: normalised squared error {error:e}, bound {tolerance:e}", engine.info().label());
}

fn products() -> impl Iterator<Item = Case> {
    CASES.into_iter().filter(|case| matches!(case, Linear { .. }))
}

/// `x [tokens, inputs]` by a weight, there and back.
fn product<E: Engine>(engine: &E, x: &[f32], weight: &HostTensor) -> Vec<f32> {
    let x = engine.upload(x, weight.columns).unwrap();
    engine.download(&engine.linear(&x, &engine.upload_matrix(weight).unwrap(), None).unwrap()).unwrap()
}

#[test]
fn every_operation_agrees_with_its_definition() {
    on_both_engines!(engine => { CASES.into_iter().for_each(|case| check(engine, case, case.tolerance())); });
}

/// Keys whose scores are far below the best have no part in the result, and what they would add is no number below f32's normal ones,
/// with which processors are slow.
#[test]
fn attention_passes_over_what_is_far_below() {
    let (tokens, head_dim) = (64, 16);
    let shape = AttentionShape { window_tokens: tokens, heads: 1, key_value_heads: 1, head_dim, sliding_window: None };
    on_both_engines!(engine => {
        // Every query finds the first key 400 above all others.
        let keys: Vec<f32> = (0..tokens).flat_map(|token| vec![if token == 0 { 10.0 } else { -10.0 }; head_dim]).collect();
        let up = |values: &[f32]| engine.upload(values, head_dim).unwrap();
        let values = noise(1, tokens * head_dim);
        let found = engine.attention(&up(&vec![5.0; tokens * head_dim]), &up(&keys), &up(&values), shape).unwrap();
        for (token, found) in engine.download(&found).unwrap().chunks_exact(head_dim).enumerate() {
            assert_eq!(found, &values[..head_dim], "query {token} on {}", engine.info().label());
        }
    });
}

/// silu, and with it the exponential, over all of its range; what is not a number stays so.
#[test]
fn silu_is_right_everywhere() {
    let gates: Vec<f32> = (-110_000..110_000).map(|i| i as f32 * 1e-3).collect();
    on_both_engines!(engine => {
        let ones = engine.upload(&vec![1.0; gates.len()], 1).unwrap();
        let mut found = engine.upload(&gates, 1).unwrap();
        engine.swiglu(&mut found, &ones).unwrap();
        for (&gate, found) in gates.iter().zip(engine.download(&found).unwrap()) {
            let gate = f64::from(gate);
            let expected = gate / (1.0 + (-gate).exp());
            // A GPU's exponential may be off by 3 + 2 |x| units in the last place, and nothing where it is below f32's normal numbers.
            let tolerance = 6e-8 * (6.0 + 2.0 * gate.abs()) * expected.abs() + 88.0 * f64::from(f32::MIN_POSITIVE);
            assert!((f64::from(found) - expected).abs() <= tolerance, "silu({gate}) is {found}, not {expected}");
        }
        // The second with digits behind it, as a damaged file may have.
        let odd = [f32::NAN, f32::from_bits(0x7fc0_0001), f32::INFINITY];
        let ones = engine.upload(&[1.0; 3], 1).unwrap();
        let mut found = engine.upload(&odd, 1).unwrap();
        engine.swiglu(&mut found, &ones).unwrap();
        assert!(engine.download(&found).unwrap().iter().all(|value| !value.is_finite()));
    });
}

/// An adapter with small bindings gets its matrices in row panels.
#[test]
fn matrices_split_by_rows_give_the_same() {
    let Some(engine) = gpu().map(|gpu| gpu.with_binding_limit(1000)) else { return };
    for case in CASES.into_iter().filter(|case| matches!(case, Linear { .. } | ColumnNorms { .. })) {
        check(&engine, case, case.tolerance());
    }
}

/// The chains that `bench` measures peaks with run, in both kinds of arithmetic.
#[test]
fn peaks_can_be_measured() {
    for engine in [Precision::F32, Precision::F16].into_iter().filter_map(gpu_with) {
        let count = engine.multiply_adds(3).unwrap();
        assert!(count > 1 << 20, "{count} multiply-adds on {}", engine.info().label());
    }
}

/// Slow devices get their work in small pieces, and those with few registers the narrow tile: the numbers are the same.
#[test]
fn results_do_not_depend_on_the_pace() {
    for precision in [Precision::F32, Precision::F16] {
        let engine = |wide, looped, short_work| Some(gpu_with(precision)?.with_pace(Form { wide, looped }, short_work));
        let Some(whole) = engine(true, false, u64::MAX) else { return };
        let others = [(true, false, 1), (true, true, u64::MAX), (false, false, u64::MAX)];
        let [in_pieces, looped, narrow] = others.map(|(wide, looped, work)| engine(wide, looped, work).expect("opened before"));
        for case in CASES.into_iter().filter(|case| matches!(case, Linear { .. } | Attention { .. } | Cross { .. })) {
            let expected = case.run(&whole);
            assert_eq!(case.run(&in_pieces), expected, "{case:?} in pieces, {precision:?}");
            assert_eq!(case.run(&looped), expected, "{case:?} in a loop, {precision:?}");
            if precision == Precision::F32 {
                assert_eq!(case.run(&narrow), expected, "{case:?} in narrow tiles");
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_found() {
    on_both_engines!(engine => {
        for count in [1, 255, 4097, 100_003] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let clean = engine.upload(&noise(1, count), 1).unwrap();
                assert!(engine.all_finite(&[&clean]).unwrap(), "{count} finite numbers");
                let mut values = noise(1, count);
                values[count - 1] = bad;
                let dirty = engine.upload(&values, 1).unwrap();
                assert!(!engine.all_finite(&[&clean, &dirty]).unwrap(), "{bad} as the last of {count} numbers");
            }
        }
    });
}

/// A row of a result must not depend on the batch it is in: calibration is cut into batches and shards.
#[test]
fn rows_do_not_depend_on_their_batch() {
    fn check<E: Engine>(engine: &E) {
        // The second fills wide tiles as a whole, and no part of it does.
        for [tokens, inputs, outputs] in [[96, 70, 50], [96, 72, 80]] {
            let x = noise(1, tokens * inputs);
            let weight = engine.upload_matrix(&matrix(2, outputs, inputs, F16)).unwrap();
            let run = |x: &[f32]| engine.download(&engine.linear(&engine.upload(x, inputs).unwrap(), &weight, None).unwrap()).unwrap();
            let parts: Vec<f32> = x.chunks(32 * inputs).flat_map(run).collect();
            assert_eq!(run(&x), parts, "{inputs} inputs on {}", engine.info().label());
        }
    }
    on_both_engines!(engine => { check(engine); });
    if let Some(engine) = gpu_with(Precision::F16) {
        check(&engine);
    }
}

/// Tensors get memory that others had: whatever stood there has no part in a result.
#[test]
fn what_memory_held_before_does_not_matter() {
    for engine in [Precision::F32, Precision::F16].into_iter().filter_map(gpu_with) {
        // Two buffers of every size that a small case asks for.
        let lengths = (4..18).flat_map(|power| (8..16).map(move |eighths| (eighths << power) / 8));
        let lengths: Vec<usize> = lengths.flat_map(|length| [length; 2]).collect();
        for case in CASES {
            let expected = case.run(&engine);
            let bad: Vec<_> = lengths.iter().map(|&length| engine.upload(&vec![f32::NAN; length], 1).unwrap()).collect();
            drop(bad);
            assert_eq!(case.run(&engine), expected, "{case:?} on {}", engine.info().label());
        }
    }
}
