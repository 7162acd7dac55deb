//! Products of the CPU engine, on the matrix library and on every unit that this processor has.

use super::cases::Case::*;
use super::definitions::{linear_reference, matrix};
use super::{check, product, products};
use crate::support::{noise, normalised_squared_error, say_loudly};
use flap_gpu::engine::Engine;
use flap_gpu::engine::cpu::{Arithmetic, CpuEngine, Unit};
use flap_gpu::tensor::Dtype::{Bf16, F16, F32};
use flap_gpu::tensor::HostTensor;

/// The CPU engine's products of f32 on processors without the units that it knows.
#[test]
fn products_of_the_matrix_library_agree_too() {
    let engine = CpuEngine::new(Arithmetic::Library);
    for case in products() {
        check(&engine, case, case.tolerance());
    }
}

/// What this processor multiplies with.
fn units() -> Vec<Unit> {
    let units: Vec<Unit> = Unit::available().collect();
    for (unit, instructions) in
        [(Unit::Amx, "AMX"), (Unit::Avx512Bf16, "AVX-512 BF16"), (Unit::Avx512, "AVX-512"), (Unit::Avx2, "AVX2 with FMA")]
    {
        if !units.contains(&unit) {
            say_loudly(&format!("this processor or system has no {instructions}: that form of the CPU engine's products is not tested"));
        }
    }
    units
}

/// On the CPU: operands rounded to bf16, to nearest even, and nothing else lost but what f32 sums lose.
#[test]
fn products_of_bf16_are_of_rounded_operands() {
    let rounded = |numbers: &[f32]| numbers.iter().map(|&v| f64::from(Bf16.round(v))).collect::<Vec<_>>();
    for engine in units().into_iter().map(|unit| CpuEngine::new(Arithmetic::Bf16(unit))) {
        for case in products() {
            let Linear { tokens, inputs, outputs, dtype, bias } = case else { unreachable!("only products") };
            let (x, weight) = (rounded(&noise(1, tokens * inputs)), rounded(&matrix(2, outputs, inputs, dtype).to_f32()));
            let reference: Vec<f32> = linear_reference(&x, &weight, inputs, bias).into_iter().map(|v| v as f32).collect();
            let error = normalised_squared_error(&case.run(&engine), &reference);
            assert!(error <= case.tolerance(), "{case:?}: normalised squared error {error:e}, bound {:e}", case.tolerance());
        }
        what_is_not_finite_stays_visible(&engine);
    }
}

/// On the CPU: f32 numbers as they are or as sums of bf16 numbers, within the bounds of f32.
#[test]
fn products_of_f32_agree_on_every_unit() {
    for engine in units().into_iter().map(|unit| CpuEngine::new(Arithmetic::F32(unit))) {
        for case in products() {
            check(&engine, case, case.tolerance());
        }
        what_is_not_finite_stays_visible(&engine);
    }
}

/// Where there is room, packed weights stay from the first product on: the products are the same, bit by bit, as without room.
#[test]
fn packed_weights_that_stay_change_no_product() {
    let (tokens, inputs, outputs) = (70, 600, 300);
    let x = noise(1, tokens * inputs);
    for arithmetic in units().into_iter().map(Arithmetic::Bf16).chain(units().into_iter().map(Arithmetic::F32)) {
        for weight in [F32, F16, Bf16].map(|dtype| matrix(2, outputs, inputs, dtype)) {
            let engine = CpuEngine::new(arithmetic);
            let x = engine.upload(&x, inputs).unwrap();
            let packed = engine.upload_matrix(&weight).unwrap();
            let products = [(); 2].map(|()| engine.download(&engine.linear(&x, &packed, None).unwrap()).unwrap());
            engine.set_spare_memory(0);
            let expected = product(&engine, &engine.download(&x).unwrap(), &weight);
            assert!(products.iter().all(|found| *found == expected), "{arithmetic:?}, {:?}", weight.dtype);
        }
    }
}

fn what_is_not_finite_stays_visible(engine: &CpuEngine) {
    let bad = engine.upload(&[1.0, f32::NAN, 2.0, f32::INFINITY], 2).unwrap();
    let y = engine.linear(&bad, &engine.upload_matrix(&HostTensor::from_f32(vec![1.0, 0.0], 2)).unwrap(), None).unwrap();
    assert!(engine.download(&y).unwrap().iter().all(|y| y.is_nan()), "NaN, and infinity times zero, stay visible");
}
