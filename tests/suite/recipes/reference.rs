//! Recipes against results of their formulas in numpy (`tests/tools/recipe_reference.py`).

use super::{options, run};
use crate::support::{data, on_both_engines};
use flap_gpu::architecture::Part;
use flap_gpu::architecture::Site;
use flap_gpu::calibration::{CalibrationOptions, CalibrationSet};
use flap_gpu::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader};
use flap_gpu::engine::{DeviceKind, Engine};
use flap_gpu::model::Model;
use flap_gpu::plan::Recipe;
use flap_gpu::recipe::Outcome;
use flap_gpu::statistics::{Mode, TokenWeights};
use std::collections::BTreeMap;
use std::path::Path;

/// Multi-head with biases; grouped-query with tied embeddings and scaled RoPE; grouped-query with query biases.
const MODELS: [&str; 3] = ["llama-biased-f32", "llama3-gqa-rope-scaled-tied-bf16", "qwen2-bf16"];

/// f32 activations and sums against f64: a few parts in a million of a weight, more where a covariance is nearly singular.
const WEIGHT_TOLERANCE: f64 = 1e-4;

/// A model with its weights widened to f32, so that new weights are not rounded to 16 bits.
pub fn widened(name: &str, folder: &Path) -> Model {
    let source = Model::open(&data("golden").join(name)).unwrap();
    let tensors: Vec<(TensorHeader, Vec<f32>)> = source
        .tensors
        .entries()
        .iter()
        .map(|entry| {
            let values = entry.read().unwrap().to_f32();
            let header =
                TensorHeader { name: entry.name.clone(), dtype: "F32".into(), shape: entry.shape.clone(), bytes: 4 * values.len() };
            (header, values)
        })
        .collect();
    let headers: Vec<TensorHeader> = tensors.iter().map(|t| t.0.clone()).collect();
    let mut writer = SafetensorsWriter::create(&folder.join("model.safetensors"), &headers, &BTreeMap::new()).unwrap();
    tensors.iter().for_each(|(_, values)| writer.write(bytemuck::cast_slice(values)).unwrap());
    writer.finish().unwrap();
    std::fs::copy(source.path.join("config.json"), folder.join("config.json")).unwrap();
    Model::open(folder).unwrap()
}

/// Numbers of the reference.
pub struct Reference(TensorFile);

impl Reference {
    pub fn open(name: &str) -> Self {
        Self(TensorFile::open(&data("recipes").join(format!("{name}.safetensors"))).unwrap())
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        self.0.bytes(name).unwrap().as_ref().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.0.bytes(name).unwrap().as_ref())
    }

    pub fn set(&self, model: &Model) -> CalibrationSet {
        let text: Vec<u32> = self.integers("text").into_iter().map(|id| id as u32).collect();
        let options = CalibrationOptions { samples: 24, sequence_length: 48, seed: 0, mode: Mode::Exact, shard: None };
        options.draw(model, &text).unwrap()
    }
}

fn places(outcome: &Outcome, index: usize) -> &[usize] {
    let layer = &outcome.plan.layers[index / 2];
    if index.is_multiple_of(2) { &layer.kv_heads } else { &layer.neurons }
}

/// Relative to the norm of what is expected; where that is nothing but rounding, to numbers of a hundredth.
fn close(found: &[f32], expected: &[f32], what: &str) {
    let norm = expected.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>().sqrt().max(0.01 * (expected.len() as f64).sqrt());
    let difference = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    assert_eq!(found.len(), expected.len(), "{what}");
    let error = difference / norm;
    assert!(error < WEIGHT_TOLERANCE, "{what}: relative error {error:e}");
}

fn compare<E: Engine>(engine: &E) {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        let model = widened(name, folder.path());
        let reference = Reference::open(name);
        let set = reference.set(&model);
        let ways = [(TokenWeights::Equal, ""), (TokenWeights::InverseSquare, "weighted.")];
        let runs = [Recipe::LeastSquares, Recipe::Sequential].into_iter().flat_map(|recipe| ways.map(|way| (recipe, way)));
        for (recipe, (token_weights, way)) in runs {
            // What least-squares does with the engine is the first pass of sequential, and fits, for which one model is enough.
            if recipe == Recipe::LeastSquares && engine.info().kind == DeviceKind::Gpu && name != MODELS[0] {
                continue;
            }
            let removed = reference.integers(&format!("{way}removed"));
            let mut options = options(recipe, 0.4);
            options.token_weights = token_weights;
            let outcome = run(engine, &model, &set, &options).unwrap();
            for (index, &removed) in removed.iter().enumerate() {
                let what = format!("{name}, {way}{}, site {index}", recipe.name());
                let (layer, site) = (index / 2, Site::BOTH[index % 2]);
                let (part, bias) = match site {
                    Site::Attention => (Part::OutputProjection, Part::OutputBias),
                    Site::Mlp => (Part::DownProjection, Part::DownBias),
                };
                let order = reference.integers(&format!("{way}order.{index}"));
                let curve = reference.numbers(&format!("{way}curve.{index}"));
                let error = outcome.plan.errors.as_ref().unwrap()[layer][index % 2];
                assert!((error - f64::from(curve[removed])).abs() <= 1e-4 * error.max(1e-6), "{what}: {error} against {}", curve[removed]);
                let kept = if recipe == Recipe::Sequential {
                    reference.integers(&format!("{way}sequential.kept.{index}"))
                } else {
                    let mut kept = order[removed..].to_vec();
                    kept.sort_unstable();
                    kept
                };
                assert_eq!(places(&outcome, index), kept, "{what}");
                if recipe == Recipe::LeastSquares && removed == 0 {
                    assert!(!outcome.changes.replaced.contains_key(&(layer, part)), "{what}: a site that keeps all was changed");
                    continue;
                }
                let made = |part: Part| outcome.changes.replaced[&(layer, part)].to_f32();
                let prefix = recipe.name();
                close(&made(part), &reference.numbers(&format!("{way}{prefix}.weight.{index}")), &format!("{what}: weight"));
                close(&made(bias), &reference.numbers(&format!("{way}{prefix}.bias.{index}")), &format!("{what}: bias"));
                if recipe == Recipe::Sequential {
                    let reader = if site == Site::Attention { Part::QueryProjection } else { Part::GateProjection };
                    close(&made(reader), &reference.numbers(&format!("{way}sequential.reader.{index}")), &format!("{what}: reader"));
                }
            }
        }
    }
}

#[test]
fn recipes_agree_with_their_formulas() {
    on_both_engines!(engine => { compare(engine); });
}

/// Both engines take the chunks that the reference takes.
#[test]
fn a_search_takes_the_cheapest_chunks() {
    let folder = tempfile::tempdir().unwrap();
    on_both_engines!(engine => {
        for name in MODELS {
            let model = widened(name, folder.path());
            let reference = Reference::open(name);
            let found = run(engine, &model, &reference.set(&model), &options(Recipe::Search, 0.4)).unwrap();
            let removed = reference.integers("searched");
            for (site, removed) in removed.into_iter().enumerate() {
                let units = reference.integers(&format!("order.{site}")).len();
                assert_eq!(places(&found, site).len(), units - removed, "{name}, site {site}");
            }
            assert!(found.plan.ratio_reached >= 0.4);
        }
    });
}
