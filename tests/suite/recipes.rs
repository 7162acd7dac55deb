//! The recipes beyond FLAP against the same formulas written in another language (`tests/tools/recipe_reference.py`), and their parts
//! against definitions.

use crate::support::{data, demo_model, on_both_engines};
use faer::Mat;
use flap_gpu::architecture::Part;
use flap_gpu::calibration::{CalibrationOptions, CalibrationSet};
use flap_gpu::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader};
use flap_gpu::engine::Engine;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::evaluation::{Predictions, Teacher};
use flap_gpu::forward::{LayerWeights, Site, Unobserved};
use flap_gpu::model::Model;
use flap_gpu::pass::{Batch, Pass, PassOptions, Visitor};
use flap_gpu::plan::Recipe;
use flap_gpu::progress::{Progress, Silent};
use flap_gpu::pruning::{PlanOptions, Uniform};
use flap_gpu::recipe::{self, AllocationSite, Elimination, OnDevice, Outcome, RecipeOptions, Symmetric, System, allocate, remove_greedily};
use flap_gpu::resume::ResumeState;
use flap_gpu::statistics::{Mode, TokenWeights};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Multi-head with biases; grouped-query with tied embeddings and scaled RoPE; grouped-query with query biases.
const MODELS: [&str; 3] = ["llama-biased-f32", "llama3-gqa-rope-scaled-tied-bf16", "qwen2-bf16"];
/// f32 activations and sums against f64: a few parts in a million of a weight, more where a covariance is nearly singular.
const WEIGHT_TOLERANCE: f64 = 1e-4;

/// A model with its weights widened to f32, so that new weights are not rounded to 16 bits.
fn widened(name: &str, folder: &Path) -> Model {
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
struct Reference(TensorFile);

impl Reference {
    fn open(name: &str) -> Self {
        Self(TensorFile::open(&data("recipes").join(format!("{name}.safetensors"))).unwrap())
    }

    fn integers(&self, name: &str) -> Vec<usize> {
        self.0.bytes(name).unwrap().as_ref().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as usize).collect()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.0.bytes(name).unwrap().as_ref())
    }

    fn set(&self, model: &Model) -> CalibrationSet {
        let text: Vec<u32> = self.integers("text").into_iter().map(|id| id as u32).collect();
        let options = CalibrationOptions { samples: 24, sequence_length: 48, seed: 0, mode: Mode::Exact, shard: None };
        options.draw(model, &text).unwrap()
    }
}

fn options(recipe: Recipe, ratio: f64) -> RecipeOptions {
    // Several batches, so that sums over batches are tested.
    let pass = PassOptions { batch_tokens: Some(5 * 48), ..PassOptions::default() };
    RecipeOptions { plan: PlanOptions { recipe, ratio, ..PlanOptions::default() }, pass, refit: true }
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
            let removed = reference.integers(&format!("{way}removed"));
            let mut options = options(recipe, 0.4);
            options.plan.token_weights = token_weights;
            let outcome = recipe::run(engine, &model, &set, &options, None, &Silent).unwrap();
            for (index, &removed) in removed.iter().enumerate() {
                let what = format!("{name}, {way}{}, site {index}", recipe.name());
                let (layer, site) = (index / 2, Site::BOTH[index % 2]);
                let (part, bias) = match site {
                    Site::Attention => (Part::OutputProjection, Part::OutputBias),
                    Site::Mlp => (Part::DownProjection, Part::DownBias),
                };
                let order = reference.integers(&format!("{way}order.{index}"));
                assert_eq!(outcome.sites[index].kept, order.len() - removed, "{what}");
                let curve = reference.numbers(&format!("{way}curve.{index}"));
                let error = outcome.sites[index].error;
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

/// Sends the windows through and keeps nothing.
struct Through;

impl<E: Engine> Visitor<E> for Through {
    fn run(&mut self, pass: &Pass<'_, E>, _: usize, weights: &LayerWeights<E>, batches: &mut [Batch<E>]) -> flap_gpu::error::Result<()> {
        batches.iter_mut().try_for_each(|batch| pass.layer(weights, batch, &mut Unobserved))
    }

    fn finish(&mut self, _: &Pass<'_, E>, _: usize, _: &LayerWeights<E>, _: &[Batch<E>]) -> flap_gpu::error::Result<()> {
        Ok(())
    }
}

/// The divergence by normalisers and expected rows is that of all logits.
#[test]
fn a_teacher_measures_the_divergence() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = "llama3-gqa-rope-scaled-tied-bf16";
    let dense = widened(name, one.path());
    let set = Reference::open(name).set(&dense);
    // Another model with the same head: the last layer's output projections are halved.
    let other = widened(name, two.path());
    let path = two.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let part = Part::DownProjection.name(other.architecture.layers.len() - 1);
    let file = TensorFile::open(&path).unwrap();
    let tensor = file.bytes(&part).unwrap().as_ref().to_vec();
    let place = bytes.windows(tensor.len()).position(|window| window == tensor).unwrap();
    let halved: Vec<u8> = bytemuck::pod_collect_to_vec::<u8, f32>(&tensor).iter().flat_map(|v| (v * 0.5).to_le_bytes()).collect();
    bytes[place..place + tensor.len()].copy_from_slice(&halved);
    drop((file, other));
    std::fs::write(&path, bytes).unwrap();
    let other = Model::open(two.path()).unwrap();
    on_both_engines!(engine => {
        let options = PassOptions { batch_tokens: Some(5 * 48), ..PassOptions::default() };
        let predictions = |model: &Model| Predictions::of(engine, model, &set.ids, 48, options, &Silent).unwrap();
        let expected = predictions(&dense).divergence(engine, &predictions(&other)).unwrap();
        let pass = |model| Pass::new(engine, model, set.windows(), 48, options, &Silent).unwrap();
        let (of_dense, of_other) = (pass(&dense), pass(&other));
        let teacher = Teacher::of(&of_dense, &set.ids).unwrap();
        let states = |pass: &Pass<'_, _>| {
            let mut batches = pass.embed(&set.ids).unwrap();
            pass.layers(0, &mut batches, &mut Through).unwrap();
            batches
        };
        let found = teacher.divergences(&of_dense, vec![states(&of_dense), states(&of_other)]).unwrap();
        // Sums of a few hundred numbers of size 1 in f32.
        assert!(found[0].abs() < 1e-5, "{found:?}");
        assert!(expected > 1e-3 && (found[1] - expected).abs() < 1e-5, "{found:?} against {expected}");
    });
}

/// Both engines take the chunks that the reference takes.
#[test]
fn a_search_takes_the_cheapest_chunks() {
    let folder = tempfile::tempdir().unwrap();
    on_both_engines!(engine => {
        for name in MODELS {
            let model = widened(name, folder.path());
            let reference = Reference::open(name);
            let found = recipe::run(engine, &model, &reference.set(&model), &options(Recipe::Search, 0.4), None, &Silent).unwrap();
            let removed = reference.integers("searched");
            let kept: Vec<usize> = (0..removed.len()).map(|i| reference.integers(&format!("order.{i}")).len() - removed[i]).collect();
            assert_eq!(found.sites.iter().map(|site| site.kept).collect::<Vec<_>>(), kept, "{name}");
            assert!(found.plan.ratio_reached >= 0.4);
        }
    });
}

/// On the CPU a result is the same, bit by bit, however many threads make it.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let model = Model::open(&demo_model()).unwrap();
    let text: Vec<u32> = (0..4000).map(|i| i * 7919 % 500).collect();
    let set = CalibrationOptions { samples: 24, sequence_length: 48, seed: 0, mode: Mode::Exact, shard: None }.draw(&model, &text).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let outcome =
            pool.install(|| recipe::run(&CpuEngine::default(), &model, &set, &options(Recipe::Sequential, 0.3), None, &Silent).unwrap());
        let mut replaced: Vec<_> = outcome.changes.replaced.iter().map(|(place, host)| (*place, host.bytes.as_ref().to_vec())).collect();
        replaced.sort_by_key(|((layer, part), _)| part.name(*layer));
        (outcome.plan.layers, replaced)
    };
    let (plan, weights) = run(1);
    for threads in [2, 7] {
        let (other_plan, other_weights) = run(threads);
        assert_eq!(other_plan, plan, "{threads} threads");
        assert!(other_weights == weights, "{threads} threads make other weights");
    }
}

/// A covariance of fewer tokens than channels, dead channels and copies of others: nothing breaks, and the errors are those of the ridged problem.
#[test]
fn removal_copes_with_rank_deficiency() {
    let (channels, outputs) = (24, 5);
    let noise = crate::support::noise(1, channels * 6);
    // Six tokens; channel 3 is dead, channel 5 is a copy of channel 4.
    let value = |token: usize, channel: usize| match channel {
        3 => 0.0,
        5 => f64::from(noise[token * channels + 4]),
        _ => f64::from(noise[token * channels + channel]),
    };
    let z = Mat::from_fn(6, channels, value);
    let covariance = z.transpose() * &z;
    let weight = Mat::from_fn(outputs, channels, |i, j| f64::from(crate::support::noise(2, outputs * channels)[i * channels + j]));
    let inverse_of = |covariance: &Mat<f64>| {
        let upper = Symmetric::from_fn(covariance.nrows(), |i, j| covariance[(i, j)]);
        let mut system = System::ridged(upper, 0.01);
        system.invert("a test").unwrap();
        system
    };
    let ridge = 0.01 * (0..channels).map(|i| covariance[(i, i)]).sum::<f64>() / channels as f64;
    let ridged = &covariance + Mat::<f64>::identity(channels, channels) * faer::Scale(ridge);
    for per_unit in [1, 4] {
        let mut system = inverse_of(&covariance);
        system.rows = weight.clone();
        let removal = remove_greedily(&mut system, per_unit, channels / per_unit, "a test").unwrap();
        let mut units = removal.order.clone();
        units.sort_unstable();
        assert_eq!(units, (0..channels / per_unit).collect::<Vec<_>>());
        assert!(removal.curve.windows(2).all(|pair| pair[1] >= pair[0]), "{:?}", removal.curve);
        // All removed: the whole (ridged) output is lost.
        let all = (&weight * &ridged * weight.transpose()).diagonal().column_vector().iter().sum::<f64>();
        let last = removal.curve[removal.curve.len() - 1];
        assert!((last / all - 1.0).abs() < 1e-9, "{last} against {all}");
    }
    // Nothing but constant channels.
    let mut system = inverse_of(&Mat::zeros(4, 4));
    system.rows = Mat::zeros(2, 4);
    remove_greedily(&mut system, 1, 4, "a test").unwrap();
}

/// Elimination by panels of many columns, against a dense solve.
#[test]
fn systems_larger_than_a_panel_are_solved() {
    let (channels, outputs, tokens) = (600, 7, 900);
    let noise = crate::support::noise(1, tokens * channels);
    let z = Mat::from_fn(tokens, channels, |t, c| f64::from(noise[t * channels + c]));
    let matrix = z.transpose() * &z;
    let rows = Mat::from_fn(outputs, channels, |i, j| f64::from(crate::support::noise(2, outputs * channels)[i * channels + j]));
    let mut system = System { matrix: Symmetric::from_fn(channels, |i, j| matrix[(i, j)]), rows: rows.clone() };
    system.invert("a test").unwrap();
    let difference = |found: &Mat<f64>, expected: &Mat<f64>| (found - expected).norm_l2() / expected.norm_l2();
    assert!(difference(&(&system.rows * &matrix), &rows) < 1e-9);
    let inverse = Mat::from_fn(channels, channels, |i, j| system.matrix.get(i, j));
    assert!(difference(&(&inverse * &matrix), &Mat::identity(channels, channels)) < 1e-9);
    // Without some channels, the rows are what the rest alone would have been solved to.
    let gone: Vec<usize> = (0..channels).filter(|i| i % 3 == 1 || (250..300).contains(i)).rev().collect();
    let stays: Vec<usize> = (0..channels).filter(|i| !gone.contains(i)).collect();
    system.remove(&gone, "a test").unwrap();
    let kept = |m: &Mat<f64>| Mat::from_fn(stays.len(), stays.len(), |i, j| m[(stays[i], stays[j])]);
    let right = Mat::from_fn(outputs, stays.len(), |i, j| rows[(i, stays[j])]);
    assert!(difference(&(&system.rows * kept(&matrix)), &right) < 1e-9);
    let inverse = Mat::from_fn(stays.len(), stays.len(), |i, j| system.matrix.get(i, j));
    assert!(difference(&(inverse * kept(&matrix)), &Mat::identity(stays.len(), stays.len())) < 1e-9);
}

/// f32 products on the device against f64 on the host: relative to the norm, a condition of a few hundred times the rounding of f32.
const DEVICE_TOLERANCE: f64 = 2e-5;

/// On the device the same units go, for the same price, and the same rows stay.
#[test]
fn eliminations_on_the_device_agree() {
    let (outputs, tokens) = (9, 700);
    on_both_engines!(engine => {
        for channels in [1, 40, 256, 600] {
            let noise = crate::support::noise(1, tokens * channels);
            // Channels of different sizes, each like its neighbour.
            let value = |t: usize, c: usize| noise[t * channels + c] + 0.7 * noise[t * channels + (c + 1) % channels];
            let z = Mat::from_fn(tokens, channels, |t, c| f64::from(value(t, c)) * (1.0 + (c % 7) as f64));
            let matrix = z.transpose() * &z;
            let noise = crate::support::noise(2, outputs * channels);
            let rows = Mat::from_fn(outputs, channels, |i, j| f64::from(noise[i * channels + j]));
            let system = || {
                let mut system = System::ridged(Symmetric::from_fn(channels, |i, j| matrix[(i, j)]), 0.01);
                system.rows = rows.clone();
                system
            };
            let mut host: Box<dyn Elimination> = Box::new(system());
            let mut device: Box<dyn Elimination> = Box::new(OnDevice::new(engine, &system().matrix, rows.clone()).unwrap());
            let close = |found: &[f64], expected: &[f64], what: &str| {
                let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                let size = norm(&mut expected.iter().copied()).max(f64::MIN_POSITIVE);
                let error = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / size;
                assert_eq!(found.len(), expected.len(), "{channels} channels, {what}");
                assert!(error < DEVICE_TOLERANCE, "{channels} channels, {what}: {error:e}");
            };
            for system in [&mut host, &mut device] {
                system.invert("a test").unwrap();
            }
            close(&device.costs(1, "a test").unwrap(), &host.costs(1, "a test").unwrap(), "costs");
            let removals = [&mut host, &mut device].map(|system| remove_greedily(&mut **system, 1, channels.div_ceil(2), "a test").unwrap());
            assert_eq!(removals[0].order, removals[1].order, "{channels} channels");
            close(&removals[1].curve[1..], &removals[0].curve[1..], "curve");
            close(&device.costs(1, "a test").unwrap(), &host.costs(1, "a test").unwrap(), "costs after the removal");
            let [host, device] = [host, device].map(|system| system.rows().unwrap());
            let values = |rows: &Mat<f64>| rows.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<_>>()).collect::<Vec<_>>();
            close(&values(&device), &values(&host), "rows");
        }
    });
}

fn curves() -> impl Strategy<Value = Vec<AllocationSite>> {
    let site = |fine: bool| {
        (prop::collection::vec(0.0f64..1.0, if fine { 50..120 } else { 2..7 }), 1u64..5).prop_map(move |(steps, cost)| {
            let curve = std::iter::once(0.0).chain(steps.iter().scan(0.0, |sum, step| {
                *sum += step * step;
                Some(*sum)
            }));
            AllocationSite { cost: if fine { 3 } else { 40 * cost }, curve: curve.collect(), multiple: 1, fine }
        })
    };
    prop::collection::vec((site(false), site(true)), 1..5).prop_map(|layers| layers.into_iter().flat_map(|(a, b)| [a, b]).collect())
}

proptest! {
    /// The ratio is met by less than a unit of the coarsest site, and more is removed for a larger ratio.
    #[test]
    fn allocation_meets_the_ratio_and_is_monotone(sites in curves(), ratio in 0.01f64..0.6) {
        let total: f64 = sites.iter().map(|s| (s.cost * (s.curve.len() - 1) as u64) as f64).sum();
        let removed = |counts: &[usize]| sites.iter().zip(counts).map(|(s, &n)| (s.cost * n as u64) as f64).sum::<f64>();
        let Ok(counts) = allocate(&sites, ratio) else { return Ok(()) };
        let coarsest = sites.iter().map(|s| s.cost).max().unwrap() as f64;
        prop_assert!(removed(&counts) >= ratio * total - 1e-6);
        prop_assert!(counts.iter().zip(&sites).all(|(&n, s)| n < s.curve.len() - 1));
        if counts.iter().zip(&sites).any(|(&n, s)| s.fine && n > 0) {
            prop_assert!(removed(&counts) - ratio * total < 3.0 + coarsest);
        }
        if let Ok(more) = allocate(&sites, ratio + 0.1) {
            prop_assert!(removed(&more) >= removed(&counts) - coarsest);
        }
        prop_assert_eq!(&counts, &allocate(&sites, ratio).unwrap());
    }
}

/// Small and large ratios, little text, equal layers: it works or says why not.
#[test]
fn extremes_work_or_say_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let model = widened("llama3-gqa-rope-scaled-tied-bf16", folder.path());
    let engine = CpuEngine::default();
    let set = Reference::open("llama3-gqa-rope-scaled-tied-bf16").set(&model);
    for recipe in [Recipe::LeastSquares, Recipe::Sequential, Recipe::Search] {
        for ratio in [0.01, 0.6] {
            let outcome = recipe::run(&engine, &model, &set, &options(recipe, ratio), None, &Silent).unwrap();
            assert!(outcome.plan.ratio_reached >= ratio - 1e-9, "{}", outcome.plan.ratio_reached);
        }
        let error = recipe::run(&engine, &model, &set, &options(recipe, 0.95), None, &Silent).err().unwrap().to_string();
        assert!(error.contains("0.95 cannot be reached"), "{error}");
        // 200 tokens for sites of 160 channels.
        let few = CalibrationOptions { samples: 4, sequence_length: 50, seed: 0, mode: Mode::Exact, shard: None };
        let few = few.draw(&model, &(0..60).collect::<Vec<u32>>()).unwrap();
        recipe::run(&engine, &model, &few, &options(recipe, 0.3), None, &Silent).unwrap();
        let mut uniform = options(recipe, 0.4);
        uniform.plan.uniform = Some(Uniform::AnyHeads);
        uniform.plan.round_neurons = 8;
        if recipe == Recipe::Search {
            let error = recipe::run(&engine, &model, &set, &uniform, None, &Silent).err().unwrap().to_string();
            assert!(error.contains("cannot keep layers alike"), "{error}");
            continue;
        }
        let outcome = recipe::run(&engine, &model, &set, &uniform, None, &Silent).unwrap();
        let sizes = |l: &flap_gpu::plan::PlannedLayer| (l.kv_heads.len(), l.neurons.len());
        assert!(outcome.plan.layers.iter().all(|l| sizes(l) == sizes(&outcome.plan.layers[0]) && l.neurons.len() % 8 == 0));
    }
}

/// Ends a run as a crash would, after so many batches of a kind of work.
struct Crash {
    work: &'static str,
    batches: Cell<usize>,
    now: RefCell<String>,
    /// Work that was begun, and how much of it was to be done.
    begun: RefCell<Vec<(String, u64)>>,
}

impl Progress for Crash {
    fn note(&self, _: &str) {}
    fn start(&self, what: &str, _: &str, total: u64) {
        *self.now.borrow_mut() = what.to_string();
        self.begun.borrow_mut().push((what.to_string(), total));
    }
    fn advance(&self, _: u64) {
        if self.now.borrow().starts_with(self.work) {
            self.batches.set(self.batches.get().checked_sub(1).expect("the crash that this test wants"));
        }
    }
    fn finish(&self) {}
}

/// Makes the pointer tell the size that a damaged file has, so that its content is what gives it away.
fn repair_sizes(pointer: &Path, damaged: &Path, size: usize) {
    let mut value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(pointer).unwrap()).unwrap();
    let name = damaged.file_name().unwrap().to_str().unwrap();
    if let Some(known) = value["files"].get_mut(name) {
        *known = size.into();
    }
    std::fs::write(pointer, value.to_string()).unwrap();
}

/// Killed in every layer, and begun again: the result is that of one run, bit by bit.
#[test]
fn an_interrupted_recipe_goes_on() {
    let engine = CpuEngine::default();
    let model = Model::open(&demo_model()).unwrap();
    let layers = model.architecture.layers.len();
    let set = CalibrationOptions { samples: 10, sequence_length: 48, seed: 1, mode: Mode::Exact, shard: None };
    let set = set.draw(&model, &(0..4000).map(|i| i * 7 % 251).collect::<Vec<u32>>()).unwrap();
    for (recipe, work) in [(Recipe::Sequential, ""), (Recipe::Search, "fitting")] {
        let options = options(recipe, 0.3);
        let whole = recipe::run(&engine, &model, &set, &options, None, &Silent).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = ResumeState::beside(&folder.path().join("pruned"), Duration::ZERO);
        let (mut begun, mut runs) = (Vec::new(), 0);
        let outcome = loop {
            runs += 1;
            assert!(runs <= 2 * layers + 1, "no run gets further than the one before");
            // As a crash within a save would leave them.
            std::fs::create_dir_all(folder.path().join("pruned.resume")).unwrap();
            let missing = (0..layers).map(|layer| state.of_layer(layer)).filter(|path| !path.exists());
            missing.for_each(|path| std::fs::write(path, "half a file").unwrap());
            // Two batches are a layer.
            let crash = Crash { work, batches: Cell::new(3), now: RefCell::default(), begun: RefCell::default() };
            let run = || recipe::run(&engine, &model, &set, &options, Some(&state), &crash);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            begun.append(&mut crash.begun.borrow_mut());
            if let Ok(outcome) = result {
                break outcome.unwrap();
            }
        };
        let tokens = (10 * 48) as u64;
        for left in 1..layers as u64 {
            assert!(begun.contains(&("fitting layers".into(), left * tokens)), "{left} layers were left to fit once, {begun:?}");
            let measured = begun.contains(&("measuring the dense model".into(), left * tokens));
            assert!(measured == (recipe == Recipe::Sequential), "the first pass of {recipe:?}, {begun:?}");
        }
        assert_eq!(outcome.plan, whole.plan);
        assert!(outcome.changes.replaced == whole.changes.replaced, "the same weights");
        assert_eq!(outcome.statistics, whole.statistics);
        let mut damaged: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let step = folder.path().join(format!("pruned.resume/step-{}", 2 * layers));
        for path in std::fs::read_dir(&step).unwrap().map(|entry| entry.unwrap().path()).chain([state.of_layer(1)]) {
            let mut content = std::fs::read(&path).unwrap();
            content.pop();
            damaged.push((path, content));
        }
        let record = std::fs::read_to_string(step.join("recipe.json")).unwrap();
        for (found, wrong) in [("\"removed\":[", "\"removed\":[7"), ("\"kept\":[[", "\"kept\":[[],["), ("\"order\":[", "\"order\":[0,")] {
            damaged.push((step.join("recipe.json"), record.replacen(found, wrong, 1).into_bytes()));
        }
        for (path, content) in damaged {
            std::fs::write(&path, &content).unwrap();
            repair_sizes(&folder.path().join("pruned.resume/state.json"), &path, content.len());
            let again = recipe::run(&engine, &model, &set, &options, Some(&state), &Silent);
            assert!(again.unwrap().changes.replaced == whole.changes.replaced, "begun anew, as {} is damaged", path.display());
        }
        let other = RecipeOptions { refit: false, ..options };
        let all = Crash { work: "nothing", batches: Cell::new(0), now: RefCell::default(), begun: RefCell::default() };
        recipe::run(&engine, &model, &set, &other, Some(&state), &all).unwrap();
        assert_eq!(all.begun.borrow().last().unwrap().1, layers as u64 * tokens, "another run's state is not used");
        drop(outcome);
        state.remove();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
