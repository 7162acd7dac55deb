//! One table of cases for every operation: both engines against a plain f64 computation, over odd, non-square shapes that no
//! tile divides.

use crate::support::{gpu, gpu_with, noise, normalised_squared_error, on_both_engines, say_loudly};
use flap_gpu::engine::cpu::{CpuEngine, has_dot_products};
use flap_gpu::engine::gpu::{Products, Tensor};
use flap_gpu::engine::{AttentionShape, Dtype, Engine, HostTensor, Precision, SharedBytes, negative_log_likelihood, widen};
use std::sync::Arc;

/// One operation with its sizes.
#[derive(Debug, Clone, Copy)]
enum Case {
    /// `[tokens, inputs]` by `[outputs, inputs]`.
    Linear {
        tokens: usize,
        inputs: usize,
        outputs: usize,
        dtype: Dtype,
        bias: bool,
    },
    RmsNorm {
        rows: usize,
        columns: usize,
        width: usize,
    },
    Rope {
        windows: usize,
        window_tokens: usize,
        heads: usize,
        head_dim: usize,
    },
    Attention {
        windows: usize,
        shape: AttentionShape,
    },
    Add {
        rows: usize,
        columns: usize,
        factor: f32,
    },
    /// Columns `first..first + columns` of `[tokens, a]` by `[tokens, b]`; the first itself where `b` is 0.
    Cross {
        tokens: usize,
        a: usize,
        first: usize,
        columns: usize,
        b: usize,
    },
    Shifted {
        rows: usize,
        columns: usize,
        scaled: bool,
    },
    InverseNorms {
        rows: usize,
        columns: usize,
    },
    Swiglu {
        rows: usize,
        columns: usize,
    },
    ScaleColumns {
        rows: usize,
        columns: usize,
    },
    ColumnNorms {
        rows: usize,
        columns: usize,
        dtype: Dtype,
    },
    CrossEntropy {
        tokens: usize,
        vocabulary: usize,
        panel: usize,
    },
}

use Case::*;
use Dtype::{Bf16, F16, F32};

const fn attention(
    windows: usize,
    window_tokens: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    sliding_window: Option<usize>,
) -> Case {
    Attention { windows, shape: AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } }
}

const CASES: [Case; 58] = [
    Linear { tokens: 1, inputs: 1, outputs: 1, dtype: F32, bias: true },
    Linear { tokens: 1, inputs: 64, outputs: 33, dtype: F32, bias: false },
    Linear { tokens: 3, inputs: 5, outputs: 7, dtype: F32, bias: true },
    Linear { tokens: 65, inputs: 17, outputs: 129, dtype: F32, bias: false },
    Linear { tokens: 130, inputs: 96, outputs: 70, dtype: F32, bias: true },
    Linear { tokens: 7, inputs: 1027, outputs: 19, dtype: F32, bias: false },
    Linear { tokens: 3, inputs: 5, outputs: 7, dtype: F16, bias: true },
    Linear { tokens: 65, inputs: 17, outputs: 129, dtype: F16, bias: false },
    Linear { tokens: 130, inputs: 96, outputs: 70, dtype: F16, bias: true },
    Linear { tokens: 257, inputs: 130, outputs: 66, dtype: F16, bias: false },
    Linear { tokens: 3, inputs: 5, outputs: 7, dtype: Bf16, bias: true },
    Linear { tokens: 65, inputs: 17, outputs: 129, dtype: Bf16, bias: false },
    Linear { tokens: 130, inputs: 96, outputs: 70, dtype: Bf16, bias: true },
    Linear { tokens: 9, inputs: 258, outputs: 300, dtype: Bf16, bias: false },
    Linear { tokens: 64, inputs: 4, outputs: 64, dtype: F32, bias: true },
    Linear { tokens: 129, inputs: 68, outputs: 130, dtype: F32, bias: false },
    Linear { tokens: 200, inputs: 132, outputs: 300, dtype: F16, bias: true },
    Linear { tokens: 300, inputs: 264, outputs: 129, dtype: F16, bias: false },
    Linear { tokens: 70, inputs: 516, outputs: 257, dtype: Bf16, bias: true },
    Linear { tokens: 131, inputs: 33, outputs: 190, dtype: Bf16, bias: true },
    RmsNorm { rows: 1, columns: 1, width: 1 },
    RmsNorm { rows: 5, columns: 67, width: 67 },
    RmsNorm { rows: 3, columns: 1030, width: 1030 },
    RmsNorm { rows: 7, columns: 48, width: 16 },
    RmsNorm { rows: 70_001, columns: 2, width: 2 },
    Rope { windows: 1, window_tokens: 1, heads: 1, head_dim: 2 },
    Rope { windows: 3, window_tokens: 37, heads: 3, head_dim: 10 },
    Rope { windows: 2, window_tokens: 129, heads: 5, head_dim: 64 },
    attention(1, 1, 1, 1, 2, None),
    attention(3, 5, 2, 2, 6, None),
    attention(2, 37, 6, 3, 10, None),
    attention(2, 65, 4, 1, 32, None),
    attention(1, 130, 3, 3, 64, None),
    attention(1, 300, 2, 1, 128, None),
    attention(1, 70, 2, 1, 256, None),
    attention(2, 70, 4, 2, 16, Some(1)),
    attention(2, 70, 4, 2, 16, Some(19)),
    attention(1, 200, 2, 2, 8, Some(500)),
    attention(1, 200, 2, 1, 48, Some(40)),
    Add { rows: 3, columns: 5, factor: 1.0 },
    Add { rows: 257, columns: 300, factor: -0.5 },
    Cross { tokens: 1, a: 1, first: 0, columns: 1, b: 1 },
    Cross { tokens: 37, a: 130, first: 3, columns: 90, b: 67 },
    Cross { tokens: 21, a: 290, first: 7, columns: 260, b: 140 },
    Cross { tokens: 300, a: 70, first: 0, columns: 70, b: 0 },
    Cross { tokens: 129, a: 300, first: 128, columns: 172, b: 0 },
    Shifted { rows: 3, columns: 5, scaled: false },
    Shifted { rows: 130, columns: 67, scaled: true },
    InverseNorms { rows: 1, columns: 1 },
    InverseNorms { rows: 37, columns: 300 },
    Swiglu { rows: 1, columns: 1 },
    Swiglu { rows: 129, columns: 67 },
    ScaleColumns { rows: 33, columns: 77 },
    ColumnNorms { rows: 1, columns: 3, dtype: F32 },
    ColumnNorms { rows: 203, columns: 131, dtype: F16 },
    ColumnNorms { rows: 1000, columns: 65, dtype: Bf16 },
    CrossEntropy { tokens: 5, vocabulary: 3, panel: 3 },
    CrossEntropy { tokens: 67, vocabulary: 1001, panel: 300 },
];

impl Case {
    /// Bound of the normalised squared error. f32 rounds by 6e-8, squared 3.6e-15; a sum of n terms in some order gathers at most
    /// about n of these squares. exp and division of GPU drivers may be wrong by several units in the last place.
    fn tolerance(&self) -> f64 {
        const ROUNDING: f64 = 3.6e-15;
        match *self {
            Linear { inputs, .. } => ROUNDING * (inputs + 4) as f64,
            RmsNorm { width, .. } => ROUNDING * (width + 8) as f64,
            Attention { shape, .. } => ROUNDING * (16 * (shape.head_dim + shape.window_tokens)) as f64,
            ColumnNorms { rows, .. } => ROUNDING * (rows + 4) as f64,
            CrossEntropy { vocabulary, .. } => ROUNDING * (16 * vocabulary) as f64,
            Add { .. } | ScaleColumns { .. } => ROUNDING,
            InverseNorms { columns, .. } => ROUNDING * (columns + 8) as f64,
            Cross { tokens, .. } => ROUNDING * (tokens + 8) as f64,
            Rope { .. } | Shifted { .. } => 4.0 * ROUNDING,
            Swiglu { .. } => 64.0 * ROUNDING,
        }
    }

    fn run<E: Engine>(&self, engine: &E) -> Vec<f32> {
        let up = |seed: u64, rows: usize, columns: usize| engine.upload(&noise(seed, rows * columns), columns).unwrap();
        let down = |tensor: &E::Tensor| engine.download(tensor).unwrap();
        match *self {
            Linear { tokens, inputs, outputs, dtype, bias } => {
                let weight = engine.upload_matrix(&matrix(2, outputs, inputs, dtype)).unwrap();
                let bias = bias.then(|| up(3, 1, outputs));
                down(&engine.linear(&up(1, tokens, inputs), &weight, bias.as_ref()).unwrap())
            }
            RmsNorm { rows, columns, width } => down(&engine.rms_norm(&up(1, rows, columns), &up(2, 1, width), 1e-5).unwrap()),
            Rope { windows, window_tokens, heads, head_dim } => {
                let mut x = up(1, windows * window_tokens, heads * head_dim);
                engine.rope(&mut x, &up(2, window_tokens, head_dim), window_tokens).unwrap();
                down(&x)
            }
            Attention { windows, shape } => {
                let tokens = windows * shape.window_tokens;
                let part = |seed, heads: usize| up(seed, tokens, heads * shape.head_dim);
                let (q, k, v) = (part(1, shape.heads), part(2, shape.key_value_heads), part(3, shape.key_value_heads));
                down(&engine.attention(&q, &k, &v, shape).unwrap())
            }
            Add { rows, columns, factor } => {
                let mut x = up(1, rows, columns);
                engine.add_scaled(&mut x, &up(2, rows, columns), factor).unwrap();
                down(&x)
            }
            Cross { tokens, a, first, columns, b } => {
                let symmetric = b == 0;
                let left = up(1, tokens, a);
                let right = (!symmetric).then(|| up(3, tokens, b));
                // A symmetric sum need not be wider than its last row's diagonal.
                let width = if symmetric { first + columns } else { b };
                let mut sum = up(5, columns, width);
                engine.add_cross(&mut sum, &left, first..first + columns, right.as_ref().unwrap_or(&left), symmetric).unwrap();
                below_diagonal(down(&sum), width, first, symmetric)
            }
            Shifted { rows, columns, scaled } => {
                let scales = scaled.then(|| up(3, rows, 1));
                down(&engine.shifted(&up(1, rows, columns), &up(2, 1, columns), scales.as_ref()).unwrap())
            }
            InverseNorms { rows, columns } => down(&engine.inverse_norms(&up(1, rows, columns)).unwrap()),
            Swiglu { rows, columns } => {
                let mut gate = up(1, rows, columns);
                engine.swiglu(&mut gate, &up(2, rows, columns)).unwrap();
                down(&gate)
            }
            ScaleColumns { rows, columns } => {
                let mut x = up(1, rows, columns);
                engine.scale_columns(&mut x, &up(2, 1, columns)).unwrap();
                down(&x)
            }
            ColumnNorms { rows, columns, dtype } => {
                let norms = engine.column_norms(&engine.upload_matrix(&matrix(1, rows, columns, dtype)).unwrap()).unwrap();
                [norms.square_sum, norms.absolute_mean].concat()
            }
            CrossEntropy { tokens, vocabulary, panel } => {
                let logits = noise(1, tokens * vocabulary);
                let mut state = engine.cross_entropy(&targets(tokens, vocabulary)).unwrap();
                for first in (0..vocabulary).step_by(panel) {
                    let width = panel.min(vocabulary - first);
                    let part: Vec<f32> =
                        logits.chunks_exact(vocabulary).flat_map(|row| &row[first..first + width]).map(|l| l * 20.0).collect();
                    engine.cross_entropy_panel(&mut state, &engine.upload(&part, width).unwrap(), first).unwrap();
                }
                negative_log_likelihood(&down(&state.state)).into_iter().map(|loss| loss as f32).collect()
            }
        }
    }

    /// The same from the definition, in f64.
    fn reference(&self) -> Vec<f64> {
        let wide = |seed: u64, count: usize| -> Vec<f64> { noise(seed, count).into_iter().map(f64::from).collect() };
        match *self {
            Linear { tokens, inputs, outputs, dtype, bias } => {
                linear_reference(&wide(1, tokens * inputs), &values_of(&matrix(2, outputs, inputs, dtype)), inputs, bias)
            }
            RmsNorm { rows, columns, width } => {
                let weight = wide(2, width);
                let norm = |run: &[f64]| {
                    let scale = 1.0 / (run.iter().map(|v| v * v).sum::<f64>() / width as f64 + 1e-5).sqrt();
                    run.iter().zip(&weight).map(|(v, w)| v * scale * w).collect::<Vec<_>>()
                };
                wide(1, rows * columns).chunks_exact(width).flat_map(norm).collect()
            }
            Rope { windows, window_tokens, heads, head_dim } => {
                let (mut x, table, half) =
                    (wide(1, windows * window_tokens * heads * head_dim), wide(2, window_tokens * head_dim), head_dim / 2);
                for (index, head) in x.chunks_exact_mut(head_dim).enumerate() {
                    let angles = &table[index / heads % window_tokens * head_dim..][..head_dim];
                    for i in 0..half {
                        let (a, b, c, s) = (head[i], head[half + i], angles[i], angles[half + i]);
                        (head[i], head[half + i]) = (a * c - b * s, b * c + a * s);
                    }
                }
                x
            }
            Attention { windows, shape } => attention_reference(windows, shape),
            Add { rows, columns, factor } => {
                wide(1, rows * columns).iter().zip(wide(2, rows * columns)).map(|(a, b)| a + f64::from(factor) * b).collect()
            }
            Cross { tokens, a, first, columns, b } => {
                let symmetric = b == 0;
                let (width, right_columns) = if symmetric { (first + columns, a) } else { (b, b) };
                let left = wide(1, tokens * a);
                let right = if symmetric { left.clone() } else { wide(3, tokens * b) };
                let dot = |i: usize, j: usize| (0..tokens).map(|t| left[t * a + first + i] * right[t * right_columns + j]).sum::<f64>();
                let mut sum = wide(5, columns * width);
                sum.iter_mut().enumerate().for_each(|(place, value)| *value += dot(place / width, place % width));
                below_diagonal(sum, width, first, symmetric)
            }
            Shifted { rows, columns, scaled } => {
                let scale = |row: usize| if scaled { wide(3, rows)[row] } else { 1.0 };
                let shifted = wide(1, rows * columns).into_iter().zip(wide(2, columns).into_iter().cycle()).map(|(x, s)| x - s);
                shifted.enumerate().map(|(place, value)| value * scale(place / columns)).collect()
            }
            InverseNorms { rows, columns } => {
                wide(1, rows * columns).chunks_exact(columns).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt().recip()).collect()
            }
            Swiglu { rows, columns } => {
                wide(1, rows * columns).iter().zip(wide(2, rows * columns)).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            }
            ScaleColumns { rows, columns } => {
                wide(1, rows * columns).iter().zip(wide(2, columns).iter().cycle()).map(|(a, b)| a * b).collect()
            }
            ColumnNorms { rows, columns, dtype } => {
                let w = values_of(&matrix(1, rows, columns, dtype));
                let column = |j: usize| w.iter().skip(j).step_by(columns);
                let squares = (0..columns).map(|j| column(j).map(|v| v * v).sum::<f64>());
                squares.chain((0..columns).map(|j| column(j).map(|v| v.abs()).sum::<f64>() / rows as f64)).collect()
            }
            CrossEntropy { tokens, vocabulary, .. } => {
                let logits: Vec<f64> = noise(1, tokens * vocabulary).into_iter().map(|l| f64::from(l * 20.0)).collect();
                let loss = |(row, target): (&[f64], u32)| row.iter().map(|l| l.exp()).sum::<f64>().ln() - row[target as usize];
                logits.chunks_exact(vocabulary).zip(targets(tokens, vocabulary)).map(loss).collect()
            }
        }
    }
}

fn attention_reference(windows: usize, shape: AttentionShape) -> Vec<f64> {
    let AttentionShape { window_tokens, heads, key_value_heads, head_dim, sliding_window } = shape;
    let tokens = windows * window_tokens;
    let part = |seed: u64, heads: usize| noise(seed, tokens * heads * head_dim);
    let (q, k, v) = (part(1, heads), part(2, key_value_heads), part(3, key_value_heads));
    let mut output = vec![0.0; tokens * heads * head_dim];
    for token in 0..tokens {
        let first = (token / window_tokens * window_tokens).max((token + 1).saturating_sub(sliding_window.unwrap_or(usize::MAX)));
        for head in 0..heads {
            let kv_head = head / (heads / key_value_heads);
            let row = |x: &[f32], token: usize, head: usize, heads: usize| -> Vec<f64> {
                x[(token * heads + head) * head_dim..][..head_dim].iter().map(|&v| f64::from(v)).collect()
            };
            let query = row(&q, token, head, heads);
            let score = |key: usize| {
                let dot: f64 = query.iter().zip(row(&k, key, kv_head, key_value_heads)).map(|(a, b)| a * b).sum();
                (dot / (head_dim as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = (first..=token).map(score).collect();
            let sum: f64 = scores.iter().sum();
            let out = &mut output[(token * heads + head) * head_dim..][..head_dim];
            for (key, score) in (first..=token).zip(scores) {
                out.iter_mut().zip(row(&v, key, kv_head, key_value_heads)).for_each(|(o, v)| *o += score / sum * v);
            }
        }
    }
    output
}

/// Of a symmetric sum only the lower triangle counts.
fn below_diagonal<T: Default>(mut sum: Vec<T>, width: usize, first: usize, symmetric: bool) -> Vec<T> {
    let beyond = |place: usize| symmetric && place % width > first + place / width;
    sum.iter_mut().enumerate().filter(|(place, _)| beyond(*place)).for_each(|(_, value)| *value = T::default());
    sum
}

fn targets(tokens: usize, vocabulary: usize) -> Vec<u32> {
    (0..tokens).map(|t| ((t * 37 + 5) % vocabulary) as u32).collect()
}

fn matrix(seed: u64, rows: usize, columns: usize, dtype: Dtype) -> HostTensor {
    let mut bytes = Vec::new();
    noise(seed, rows * columns).into_iter().for_each(|value| dtype.push(value, &mut bytes));
    let length = bytes.len();
    HostTensor::new(SharedBytes::new(Arc::new(bytes), 0..length), dtype, rows, columns)
}

/// `x W^T`, plus the bias that a case with one has.
fn linear_reference(x: &[f64], weight: &[f64], inputs: usize, bias: bool) -> Vec<f64> {
    let outputs = weight.len() / inputs;
    let bias = if bias { noise(3, outputs).into_iter().map(f64::from).collect() } else { vec![0.0; outputs] };
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
    x.chunks_exact(inputs).flat_map(|x| weight.chunks_exact(inputs).zip(&bias).map(|(w, b)| dot(x, w) + b).collect::<Vec<_>>()).collect()
}

/// The numbers a matrix holds after rounding to its format.
fn values_of(matrix: &HostTensor) -> Vec<f64> {
    let mut values = vec![0.0; matrix.rows * matrix.columns];
    widen(matrix.dtype, matrix.bytes.as_ref(), &mut values);
    values.into_iter().map(f64::from).collect()
}

fn check<E: Engine>(engine: &E, case: Case, tolerance: f64) {
    let reference: Vec<f32> = case.reference().into_iter().map(|v| v as f32).collect();
    let error = normalised_squared_error(&case.run(engine), &reference);
    assert!(error <= tolerance, "{case:?} on {}: normalised squared error {error:e}, bound {tolerance:e}", engine.info().label());
}

fn products() -> impl Iterator<Item = Case> {
    CASES.into_iter().filter(|case| matches!(case, Linear { .. }))
}

#[test]
fn every_operation_agrees_with_its_definition() {
    on_both_engines!(engine => { CASES.into_iter().for_each(|case| check(engine, case, case.tolerance())); });
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
            // A GPU's exponential may be off by 3 + 2 |x| units in the last place. Beyond -87 all that is left is below f32's normal numbers.
            let tolerance = 6e-8 * (6.0 + 2.0 * gate.abs()) * expected.abs() + 1e-36;
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
}

/// The chains that `bench` measures peaks with run, in both kinds of arithmetic.
#[test]
fn peaks_can_be_measured() {
    for engine in [Precision::F32, Precision::F16].into_iter().filter_map(gpu_with) {
        let once = engine.multiply_adds(1).unwrap();
        assert!(once > 1 << 20, "{once} multiply-adds on {}", engine.info().label());
        assert_eq!(engine.multiply_adds(3).unwrap(), 3 * once);
    }
}

/// On the CPU: operands rounded to bf16, to nearest even, and nothing else lost but what f32 sums lose.
#[test]
fn products_of_bf16_are_of_rounded_operands() {
    let engine = CpuEngine::with_bf16_products();
    if !has_dot_products() {
        say_loudly("this processor has no bf16 dot products (AVX-512 BF16): only the portable form of the kernel is tested");
    }
    let rounded = |numbers: &[f32]| numbers.iter().map(|&v| f64::from(Bf16.round(v))).collect::<Vec<_>>();
    for case in products() {
        let Linear { tokens, inputs, outputs, dtype, bias } = case else { unreachable!("only products") };
        let (x, weight) = (rounded(&noise(1, tokens * inputs)), rounded(&matrix(2, outputs, inputs, dtype).to_f32()));
        let reference: Vec<f32> = linear_reference(&x, &weight, inputs, bias).into_iter().map(|v| v as f32).collect();
        let error = normalised_squared_error(&case.run(&engine), &reference);
        assert!(error <= case.tolerance(), "{case:?}: normalised squared error {error:e}, bound {:e}", case.tolerance());
    }
    let bad = engine.upload(&[1.0, f32::NAN, 2.0, f32::INFINITY], 2).unwrap();
    let y = engine.linear(&bad, &engine.upload_matrix(&HostTensor::from_f32(&[1.0, 0.0], 2)).unwrap(), None).unwrap();
    assert!(engine.download(&y).unwrap().iter().all(|y| y.is_nan()), "NaN, and infinity times zero, stay visible");
}

/// `x [tokens, inputs]` by a weight, there and back.
fn product<E: Engine>(engine: &E, x: &[f32], weight: &HostTensor) -> Vec<f32> {
    let x = engine.upload(x, weight.columns).unwrap();
    engine.download(&engine.linear(&x, &engine.upload_matrix(weight).unwrap(), None).unwrap()).unwrap()
}

/// Numbers that f16 does not hold: such weights go through the f32 tier, activations are scaled token by token.
#[test]
fn f16_never_clips() {
    let Some(engine) = gpu_with(Precision::F16) else { return };
    let (tokens, size) = (70, 72);
    let x = noise(1, tokens * size);
    let values: Vec<f32> = noise(2, size * size).iter().map(|v| v * 1e6).collect();
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let expected: Vec<f32> = linear_reference(&wide(&x), &wide(&values), size, false).into_iter().map(|v| v as f32).collect();
    assert!(normalised_squared_error(&product(&engine, &x, &HostTensor::from_f32(&values, size)), &expected) < 1e-11);

    // From 2^-100 to 2^109, token by token; the results, brought back to one size, must all be right.
    let scale = |token: usize| 2.0f32.powi(-100 + 209 * token as i32 / (tokens as i32 - 1));
    let scaled: Vec<f32> = x.iter().enumerate().map(|(place, v)| v * scale(place / size)).collect();
    let weight = matrix(2, size, size, Bf16);
    let mut found = product(&engine, &scaled, &weight);
    found.iter_mut().enumerate().for_each(|(place, v)| *v /= scale(place / size));
    let exact: Vec<f64> = scaled.iter().enumerate().map(|(place, &v)| f64::from(v) / f64::from(scale(place / size))).collect();
    let expected: Vec<f32> = linear_reference(&exact, &values_of(&weight), size, false).into_iter().map(|v| v as f32).collect();
    for (token, (found, expected)) in found.chunks_exact(size).zip(expected.chunks_exact(size)).enumerate() {
        let error = normalised_squared_error(found, expected);
        assert!(error < F16_TOLERANCE, "token {token}, scaled by {:e}: normalised squared error {error:e}", scale(token));
    }
    // Zeros stay zeros, and what is not finite is not hidden by the scale of its row.
    let mut odd = vec![0.0; tokens * size];
    (odd[0], odd[size]) = (f32::NAN, f32::INFINITY);
    let found = product(&engine, &odd, &HostTensor::from_f32(&vec![1.0; size * size], size));
    assert!(found[..2 * size].iter().all(|v| !v.is_finite()));
    assert!(found[2 * size..].iter().all(|&v| v == 0.0));
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
    let mut x = engine.upload(&noise(1, tokens * size), size).unwrap();
    let mut last = times(&x);
    let changes: [(&str, Change<'_>); 5] = [
        ("add_scaled", &|x| engine.add_scaled(x, &other, 0.5).unwrap()),
        ("rope", &|x| engine.rope(x, &table, tokens).unwrap()),
        ("swiglu", &|x| engine.swiglu(x, &other).unwrap()),
        ("scale_columns", &|x| engine.scale_columns(x, &row).unwrap()),
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

/// Slow devices get their work in small pieces, and those with few registers the narrow tile: the numbers are the same.
#[test]
fn results_do_not_depend_on_the_pace() {
    for precision in [Precision::F32, Precision::F16] {
        let engine = |wide, short_work| Some(gpu_with(precision)?.with_pace(wide, short_work));
        let Some(whole) = engine(true, u64::MAX) else { return };
        let (in_pieces, narrow) = (engine(true, 1).expect("opened before"), engine(false, u64::MAX).expect("opened before"));
        for case in CASES.into_iter().filter(|case| matches!(case, Linear { .. } | Attention { .. } | Cross { .. })) {
            let expected = case.run(&whole);
            assert_eq!(case.run(&in_pieces), expected, "{case:?} in pieces, {precision:?}");
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
    on_both_engines!(engine => {
        let (tokens, inputs, outputs) = (96, 70, 50);
        let x = noise(1, tokens * inputs);
        let weight = engine.upload_matrix(&matrix(2, outputs, inputs, F16)).unwrap();
        let run = |x: &[f32]| engine.download(&engine.linear(&engine.upload(x, inputs).unwrap(), &weight, None).unwrap()).unwrap();
        let whole = run(&x);
        let parts: Vec<f32> = x.chunks(32 * inputs).flat_map(run).collect();
        assert_eq!(whole, parts, "on {}", engine.info().label());
    });
}
