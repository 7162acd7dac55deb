//! Products whose operands are f16 or bf16.

use super::cases::CASES;
use super::cases::Case::*;
use super::definitions::{linear_reference, matrix, values_of};
use super::{check, product, products};
use crate::support::{gpu_with, noise, normalised_squared_error};
use flap_gpu::engine::gpu::{GpuEngine, Products, Tensor};
use flap_gpu::engine::{AttentionShape, Engine, Precision};
use flap_gpu::tensor::Dtype::{Bf16, F16};
use flap_gpu::tensor::{HostTensor, widen};

/// Operands round to f16 by up to 2^-11 of their size, 2^-12 or so on average and in the root mean square; two of them in every term.
const F16_TOLERANCE: f64 = 1e-6;

#[test]
fn products_of_f16_agree_too() {
    let Some(engine) = gpu_with(Precision::F16) else { return };
    assert_ne!(engine.products(), Products::F32);
    if std::env::var_os("FLAP_GPU_REQUIRE_MATRIX_UNITS").is_some() {
        assert!(matches!(engine.products(), Products::Cooperative { .. }), "matrix units are required, this is {:?}", engine.products());
    }
    for case in products() {
        check(&engine, case, F16_TOLERANCE);
    }
    // Norms of matrices that lie in tiles (a bf16 number of these is one of f16, too), and attention, on matrix units where they are.
    for case in CASES.into_iter().filter(|case| matches!(case, ColumnNorms { .. } | Attention { .. })) {
        check(&engine, case, F16_TOLERANCE);
    }
}

/// Weights widen as the field's library has it, whatever their 16 bits are.
#[test]
fn all_numbers_of_16_bits_widen_right() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut found = vec![0.0; 1 << 16];
    for dtype in [F16, Bf16] {
        widen(dtype, &bytes, &mut found);
        for (bits, &found) in (0..=u16::MAX).zip(&found) {
            let expected = if dtype == F16 { half::f16::from_bits(bits).to_f32() } else { half::bf16::from_bits(bits).to_f32() };
            let same = if expected.is_nan() { found.is_nan() } else { found.to_bits() == expected.to_bits() };
            assert!(same, "{dtype:?} {bits:#06x} is {expected}, not {found}");
        }
    }
}

/// Numbers that f16 does not hold: such weights go through the f32 tier, activations are scaled, 16 tokens at a time or each alone.
#[test]
fn f16_never_clips() {
    let Some(engine) = gpu_with(Precision::F16) else { return };
    let (tokens, size) = (70, 72);
    let x = noise(1, tokens * size);
    let values: Vec<f32> = noise(2, size * size).iter().map(|v| v * 1e6).collect();
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let expected: Vec<f32> = linear_reference(&wide(&x), &wide(&values), size, false).into_iter().map(|v| v as f32).collect();
    assert!(normalised_squared_error(&product(&engine, &x, &HostTensor::from_f32(values.clone(), size)), &expected) < 1e-11);

    // From 2^-100 to 2^109, tokens that share a scale up to 2^15 apart: f16 has 2^28 without loss of digits, of which each token's own
    // numbers take the rest. The results, brought back to one size, must all be right.
    let scale = |token: i32| 2.0f32.powi(-100 + 209 * (token / 16) / (tokens as i32 / 16) - token % 16);
    let scaled: Vec<f32> = x.iter().enumerate().map(|(place, v)| v * scale((place / size) as i32)).collect();
    let weight = matrix(2, size, size, Bf16);
    let mut found = product(&engine, &scaled, &weight);
    found.iter_mut().enumerate().for_each(|(place, v)| *v /= scale((place / size) as i32));
    let exact: Vec<f64> = scaled.iter().enumerate().map(|(place, &v)| f64::from(v) / f64::from(scale((place / size) as i32))).collect();
    let expected: Vec<f32> = linear_reference(&exact, &values_of(&weight), size, false).into_iter().map(|v| v as f32).collect();
    for (token, (found, expected)) in found.chunks_exact(size).zip(expected.chunks_exact(size)).enumerate() {
        let error = normalised_squared_error(found, expected);
        assert!(error < F16_TOLERANCE, "token {token}, scaled by {:e}: normalised squared error {error:e}", scale(token as i32));
    }
    // Zeros stay zeros, and what is not finite is not hidden by the scale of its row.
    let mut odd = vec![0.0; tokens * size];
    (odd[0], odd[size]) = (f32::NAN, f32::INFINITY);
    let found = product(&engine, &odd, &HostTensor::from_f32(vec![1.0; size * size], size));
    assert!(found[..2 * size].iter().all(|v| !v.is_finite()));
    assert!(found[2 * size..].iter().all(|&v| v == 0.0));
}

/// Attention on matrix units: values that are far apart from 16 tokens to the next 16 keep their digits, and so do those beyond f16's range.
#[test]
fn attention_in_f16_never_clips() {
    let (Some(engine), Some(exact)) = (gpu_with(Precision::F16), gpu_with(Precision::F32)) else { return };
    let shape = AttentionShape { window_tokens: 144, heads: 4, key_value_heads: 2, head_dim: 64, sliding_window: None };
    let numbers = |seed, heads: usize, size: &dyn Fn(usize) -> f32| -> Vec<f32> {
        let columns = heads * shape.head_dim;
        noise(seed, shape.window_tokens * columns).iter().enumerate().map(|(place, v)| v * size(place / columns)).collect()
    };
    let (q, k) = (numbers(1, 4, &|_| 1e8), numbers(2, 2, &|_| 1e-7));
    let v = numbers(3, 2, &|token| if token / 16 % 2 == 0 { 1e6 } else { 1e2 });
    let run = |engine: &GpuEngine| {
        let up = |numbers: &[f32], heads: usize| engine.upload(numbers, heads * shape.head_dim).unwrap();
        engine.download(&engine.attention(&up(&q, 4), &up(&k, 2), &up(&v, 2), shape).unwrap()).unwrap()
    };
    let (found, expected) = (run(&engine), run(&exact));
    assert_eq!(found == expected, !matches!(engine.products(), Products::Cooperative { .. }), "on matrix units, and only there, in f16");
    let columns = 4 * shape.head_dim;
    for (query, (found, expected)) in found.chunks_exact(columns).zip(expected.chunks_exact(columns)).enumerate() {
        let error = normalised_squared_error(found, expected);
        // A score of some ten is off by 2^-12 of its terms, and that is a relative error of its probability.
        assert!(error < 10.0 * F16_TOLERANCE, "query {query}: normalised squared error {error:e}");
    }
}

type Change<'a> = &'a dyn Fn(&mut Tensor);

/// Products of one activation share its f16 form; once it changes they must not.
#[test]
fn a_changed_activation_is_multiplied_anew() {
    let Some(engine) = gpu_with(Precision::F16) else { return };
    let (tokens, size) = (70, 72);
    let weight = engine.upload_matrix(&matrix(2, size, size, F16)).unwrap();
    let times = |x: &_| engine.download(&engine.linear(x, &weight, None).unwrap()).unwrap();
    let fresh = |x: &_| times(&engine.upload(&engine.download(x).unwrap(), size).unwrap());
    let row = engine.upload(&noise(3, size), size).unwrap();
    let table = engine.upload(&noise(4, tokens * size), size).unwrap();
    let other = engine.upload(&noise(5, tokens * size), size).unwrap();
    let first = engine.upload(&[0.0], 1).unwrap();
    let all = engine.upload(&(0..size).map(|place| place as f32).collect::<Vec<_>>(), 1).unwrap();
    let mut x = engine.upload(&noise(1, tokens * size), size).unwrap();
    let mut last = times(&x);
    let changes: [(&str, Change<'_>); 6] = [
        ("add_scaled", &|x| engine.add_scaled(x, &other, 0.5).unwrap()),
        ("rope", &|x| engine.rope(x, &table, tokens).unwrap()),
        ("swiglu", &|x| engine.swiglu(x, &other).unwrap()),
        ("scale_columns", &|x| engine.scale_columns(x, &row).unwrap()),
        ("gather", &|x| engine.gather(x, 1, &other, &first, &all).unwrap()),
        ("add_cross", &|x| engine.add_cross(x, &other, 0..tokens, &other, false).unwrap()),
    ];
    for (name, change) in changes {
        change(&mut x);
        let found = times(&x);
        assert_ne!(found, last, "{name} changes the product");
        assert_eq!(found, fresh(&x), "after {name}");
        last = found;
    }
}

/// They read it in different layouts, of which a tensor keeps one.
#[test]
fn an_activation_serves_products_and_attention() {
    let Some(engine) = gpu_with(Precision::F16) else { return };
    let shape = AttentionShape { window_tokens: 32, heads: 2, key_value_heads: 2, head_dim: 32, sliding_window: None };
    let (tokens, size) = (shape.window_tokens, shape.heads * shape.head_dim);
    let weight = engine.upload_matrix(&matrix(2, size, size, F16)).unwrap();
    let upload = || engine.upload(&noise(1, tokens * size), size).unwrap();
    let times = |x: &_| engine.download(&engine.linear(x, &weight, None).unwrap()).unwrap();
    let attend = |x: &_| engine.download(&engine.attention(x, x, x, shape).unwrap()).unwrap();
    let x = upload();
    for _ in 0..2 {
        assert_eq!(times(&x), times(&upload()), "the product");
        assert_eq!(attend(&x), attend(&upload()), "attention");
    }
}
