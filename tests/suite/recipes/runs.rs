//! Whole runs: divergence, threads, interrupts.

use super::reference::{Reference, widened};
use super::{calibration, options, run};
use crate::support::{demo_model, on_both_engines};
use flap_gpu::architecture::Part;
use flap_gpu::calibration::CalibrationOptions;
use flap_gpu::checkpoint::TensorFile;
use flap_gpu::engine::Engine;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::evaluation::{Predictions, Teacher};
use flap_gpu::forward::{LayerWeights, Unobserved};
use flap_gpu::model::Model;
use flap_gpu::pass::{Batch, Pass, PassOptions, Visitor};
use flap_gpu::plan::{PlanOptions, Recipe};
use flap_gpu::progress::{Progress, Silent};
use flap_gpu::recipe;
use flap_gpu::resume::ResumeState;
use flap_gpu::statistics::Mode;
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// On the CPU a result is the same, bit by bit, however many threads make it.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let model = Model::open(&demo_model()).unwrap();
    let text: Vec<u32> = (0..4000).map(|i| i * 7919 % 500).collect();
    let set = CalibrationOptions { samples: 24, sequence_length: 48, seed: 0, mode: Mode::Exact, shard: None }.draw(&model, &text).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let outcome = pool.install(|| run(&CpuEngine::default(), &model, &set, &options(Recipe::Sequential, 0.3)).unwrap());
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

/// Ends a run as a crash would, after so many steps of a kind of work.
#[derive(Default)]
struct Crash {
    steps: Vec<(&'static str, Cell<usize>)>,
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
        if let Some((_, steps)) = self.steps.iter().find(|(work, _)| *work == self.now.borrow().as_str()) {
            steps.set(steps.get().checked_sub(1).expect("the crash that this test wants"));
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

/// Killed in every layer and every round, and begun again: the result is that of one run, bit by bit.
#[test]
fn an_interrupted_recipe_goes_on() {
    let engine = CpuEngine::default();
    let model = Model::open(&demo_model()).unwrap();
    let layers = model.architecture.layers.len();
    let set = CalibrationOptions { samples: 10, sequence_length: 48, seed: 1, mode: Mode::Exact, shard: None };
    let set = set.draw(&model, &(0..4000).map(|i| i * 7 % 251).collect::<Vec<u32>>()).unwrap();
    let tokens = (10 * 48) as u64;
    // A layer advances with the two batches of both its sites, and behind each site; a round, once for every site that a variant passes, with
    // one window. The dense model goes before a search's rounds.
    let measuring = ("measuring the dense model", 9, tokens, 0);
    let searching = ("searching", 50, (2..10).sum::<u64>() * 48, layers as u64 * 48);
    let fitting = ("fitting layers", 9, tokens, 0);
    let rounds = 6;
    for (recipe, work) in [
        (Recipe::LeastSquares, vec![measuring]),
        (Recipe::Sequential, vec![measuring, fitting]),
        (Recipe::Search, vec![measuring, searching, fitting]),
    ] {
        let options = options(recipe, 0.3);
        let whole = run(&engine, &model, &set, &options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = ResumeState::beside(&folder.path().join("pruned"), Duration::ZERO, true);
        let resume = folder.path().join("pruned.resume");
        let (mut begun, mut runs) = (Vec::new(), 0);
        let outcome = loop {
            runs += 1;
            assert!(runs <= 2 * layers + rounds + 1, "no run gets further than the one before");
            // As a crash within a save would leave them.
            std::fs::create_dir_all(resume.join("layers")).unwrap();
            let files = ["covariances", "weights"].into_iter();
            let files = files.flat_map(|file| (0..layers).map(move |layer| (file, layer)));
            let missing = files.map(|(file, layer)| state.of_layer(file, layer)).filter(|path| !path.exists());
            missing.for_each(|path| std::fs::write(path, "half a file").unwrap());
            let crash = Crash { steps: work.iter().map(|&(name, steps, ..)| (name, Cell::new(steps))).collect(), ..Crash::default() };
            let run = || recipe::run(&calibration(&engine, &model, &set, &crash), &options, Some(&state));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            begun.append(&mut crash.begun.borrow_mut());
            if let Ok(outcome) = result {
                break outcome.unwrap();
            }
        };
        for (name, _, each, once) in work {
            let parts = if name == "searching" { rounds } else { layers };
            for left in 1..=parts as u64 {
                assert!(begun.contains(&(name.into(), left * each + once)), "{name}: {left} of {parts} were left once, {begun:?}");
            }
        }
        assert_eq!(outcome.plan, whole.plan);
        assert!(outcome.changes.replaced == whole.changes.replaced, "the same weights");
        assert_eq!(outcome.statistics, whole.statistics);
        // Some systems neither write nor remove a file that is mapped.
        drop(outcome);
        let pointer = resume.join("state.json");
        let last_save = || {
            let pointer: serde_json::Value = serde_json::from_slice(&std::fs::read(&pointer).unwrap()).unwrap();
            resume.join(format!("save-{}", pointer["save"]))
        };
        let of_layer = state.of_layer(if recipe == Recipe::LeastSquares { "covariances" } else { "weights" }, 1);
        let mut damaged: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for path in std::fs::read_dir(last_save()).unwrap().map(|entry| entry.unwrap().path()).chain([of_layer]) {
            let mut content = std::fs::read(&path).unwrap();
            content.pop();
            damaged.push((path.file_name().unwrap().into(), content));
        }
        let record = std::fs::read_to_string(last_save().join("recipe.json")).unwrap();
        for (found, wrong) in [("\"removed\":[", "\"removed\":[7"), ("\"kept\":[[", "\"kept\":[[],["), ("\"order\":[", "\"order\":[0,")] {
            if record.contains(found) {
                damaged.push(("recipe.json".into(), record.replacen(found, wrong, 1).into_bytes()));
            }
        }
        // An order of as many units, one of which is there twice, or is none.
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        if let Some(order) = record.pointer("/curves/0/removal/order") {
            for wrong in [order[1].clone(), 1000.into()] {
                let mut record = record.clone();
                record["curves"][0]["removal"]["order"][0] = wrong;
                damaged.push(("recipe.json".into(), record.to_string().into_bytes()));
            }
        }
        for (name, content) in damaged {
            let path =
                [last_save(), resume.join("layers")].map(|folder| folder.join(&name)).into_iter().find(|path| path.exists()).unwrap();
            std::fs::write(&path, &content).unwrap();
            repair_sizes(&pointer, &path, content.len());
            let again = recipe::run(&calibration(&engine, &model, &set, &Silent), &options, Some(&state));
            assert!(again.unwrap().changes.replaced == whole.changes.replaced, "begun anew, as {} is damaged", path.display());
        }
        let other = PlanOptions { ratio: 0.25, ..options };
        let all = Crash::default();
        recipe::run(&calibration(&engine, &model, &set, &all), &other, Some(&state)).unwrap();
        assert_eq!(all.begun.borrow()[0].1, layers as u64 * tokens, "another run's state is not used");
        state.remove();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
