//! What an interrupt leaves, and going on from it.

use super::Place;
#[cfg(unix)]
use crate::support::run;
use crate::support::{demo_model, gpu_with};
use flap_gpu::calibration::{Calibration, CalibrationOptions, calibrate};
use flap_gpu::checkpoint::Tokenizer;
use flap_gpu::engine::Precision;
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::progress::{Progress, Silent};
use flap_gpu::recipe;
use flap_gpu::resume::ResumeState;
use flap_gpu::statistics::{Mode, TokenWeights};
use std::cell::Cell;
use std::fs;
use std::path::Path;
#[cfg(unix)]
use std::process::{Child, Command, Stdio};
use std::time::Duration;
#[cfg(unix)]
use std::time::Instant;

/// Counts the work that was announced.
struct Announced(Cell<u64>);

impl Progress for Announced {
    fn note(&self, _: &str) {}
    fn start(&self, _: &str, _: &str, total: u64) {
        self.0.set(total);
    }
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

/// A warning of the library's, here that of a run beside another, is among the document's notes.
#[test]
fn a_run_beside_another_says_so() {
    let place = Place::new();
    let folder = place.path("out.resume");
    fs::create_dir(&folder).unwrap();
    let lock = fs::File::create(Path::new(&folder).join("lock")).unwrap();
    lock.lock().unwrap();
    let report = place.prune(&place.model, "out", &["--quiet"]);
    assert!(report["notes"].to_string().contains("another run is making the same output"), "{}", report["notes"]);
}

#[test]
fn an_interrupted_calibration_goes_on() {
    let engine = CpuEngine::default();
    let model = Model::open(&demo_model()).unwrap();
    let tokens = Tokenizer::open(&model.path).unwrap().encode(include_str!("../../../demo/calibration.txt")).unwrap();
    let options = CalibrationOptions { samples: 20, sequence_length: 64, seed: 3, mode: Mode::Exact, shard: None };
    let set = options.draw(&model, &tokens).unwrap();
    let pass = PassOptions { batch_tokens: Some(256), ..PassOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    // Saved after every layer but the last. What stands after the last save is what an interrupted run leaves.
    let state = ResumeState::beside(&folder.path().join("stats"), Duration::ZERO, true);
    let announced = Announced(Cell::new(0));
    let of = |set| Calibration { engine: &engine, model: &model, set, pass, progress: &announced };
    let whole = calibrate(&of(&set), Some(&state)).unwrap();
    let resumed = calibrate(&of(&set), Some(&state)).unwrap();
    assert_eq!(announced.0.get(), 20 * 64, "one layer was left to do");
    assert_eq!(resumed, whole);
    // On another device it goes on as well, and says so.
    if let Some(gpu) = gpu_with(Precision::F32) {
        let on_gpu = |resume| {
            let set = &options.draw(&model, &tokens).unwrap();
            calibrate(&Calibration { engine: &gpu, model: &model, set, pass, progress: &announced }, resume).unwrap()
        };
        let mixed = on_gpu(Some(&state));
        assert_eq!(announced.0.get(), 20 * 64, "one layer was left to do");
        assert!(mixed.header.devices.len() == 2 && mixed.header.options == ["--precision", "f32"], "{:?}", mixed.header);
        let alone = on_gpu(None);
        assert_eq!(alone.header.devices.len(), 1);
    }
    let other = CalibrationOptions { seed: 4, ..options }.draw(&model, &tokens).unwrap();
    calibrate(&of(&other), Some(&state)).unwrap();
    assert_eq!(announced.0.get(), 4 * 20 * 64, "another run's state is not used");
    // With covariances it is another run too, and goes on as well.
    let with_covariances = |state: &ResumeState| recipe::calibrate(&of(&set), TokenWeights::InverseSquare, Some(state)).unwrap();
    let whole = with_covariances(&state);
    assert_eq!(announced.0.get(), 4 * 20 * 64);
    assert!(whole.layers.iter().all(|layer| layer.mlp.covariance.is_some()));
    // As a save that was never completed would leave it.
    fs::write(state.of_layer("covariances", 3), "half a file").unwrap();
    let resumed = with_covariances(&state);
    assert_eq!(announced.0.get(), 20 * 64, "one layer was left to do");
    assert_eq!(resumed, whole);
    // Some systems write no file that is mapped.
    drop(resumed);
    fs::write(state.of_layer("covariances", 1), "half a file").unwrap();
    assert_eq!(with_covariances(&state), whole);
    assert_eq!(announced.0.get(), 4 * 20 * 64, "begun anew, as a layer is damaged");
    // Another run that makes the same output at the same time neither uses nor touches what is there.
    let other = ResumeState::beside(&folder.path().join("stats"), Duration::ZERO, true);
    assert_eq!(with_covariances(&other), whole);
    assert_eq!(announced.0.get(), 4 * 20 * 64);
    other.remove();
    assert_eq!(with_covariances(&state), whole);
    assert_eq!(announced.0.get(), 20 * 64, "one layer was left to do");
    state.remove();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Hours of another run are dropped only when that is asked for, and what is no run's is not touched.
#[test]
fn progress_of_another_run_stays() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("stats");
    let state = |force: bool| ResumeState::beside(&place, Duration::ZERO, force);
    let content = |save: &Path| Ok(fs::read_to_string(save.join("content")).unwrap());
    let load = |state: &ResumeState, work: &str| state.load(&work.into(), &Silent, content);
    let of = |name: &str| folder.path().join("stats.resume").join(name);
    let saved = state(false).save_if_due(&"this".into(), |save| {
        fs::write(save.join("content"), "three layers").unwrap();
        Ok(())
    });
    assert!(saved);
    let found = Some("three layers".to_string());
    fs::write(of("layers-notes.txt"), "precious").unwrap();
    assert_eq!(load(&state(false), "this").unwrap(), found);
    let message = load(&state(false), "that").unwrap_err().to_string();
    assert!(message.contains("stats.resume") && message.contains("--force"), "{message}");
    // What is no progress of a run's is not dropped either way.
    let pointer = fs::read(of("state.json")).unwrap();
    fs::write(of("state.json"), "{\"step\": 3}").unwrap();
    assert!(load(&state(true), "this").is_err() && of("save-1/content").exists());
    fs::write(of("state.json"), pointer).unwrap();
    // Nor by one that went on from nothing and is complete.
    state(false).remove();
    assert_eq!(load(&state(false), "this").unwrap(), found);
    let other = state(true);
    assert_eq!(load(&other, "that").unwrap(), None);
    assert!(of("save-1/content").exists(), "there is nothing else yet");
    other.save_if_due(&"that".into(), |_| Ok(()));
    assert!(!of("save-1/content").exists() && of("save-1").exists());
    other.remove();
    assert_eq!(fs::read_to_string(of("layers-notes.txt")).unwrap(), "precious");
    assert_eq!(fs::read_dir(of("")).unwrap().count(), 1);
}

/// A `prune` of long work to the output `out`, once it has begun: its temporary folder has appeared.
#[cfg(unix)]
fn long_run(place: &Place, more: &[&str]) -> Child {
    let (text, output) = (place.path("calibration.txt"), place.path("out"));
    let arguments = ["prune", &place.model, "--calibration", &text, "--output", &output, "--samples", "400000", "--device", "cpu"];
    let before = place.names().len();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flap-gpu"));
    let child = command.args(arguments).args(more).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while place.names().len() <= before {
        assert!(started.elapsed() < Duration::from_secs(30), "no temporary folder appeared");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    child
}

/// Ctrl-C: exit code 1, an earlier output intact, no temporary files left.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    place.prune(&place.model, "out", &["--ratio", "0.2"]);
    let before = fs::read(Path::new(&place.path("out")).join("model.safetensors")).unwrap();
    let output = place.path("out");
    let child = long_run(&place, &["--force"]);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let finished = child.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", String::from_utf8_lossy(&finished.stderr));
    assert!(String::from_utf8_lossy(&finished.stderr).contains("interrupted"));
    assert_eq!(place.names(), ["calibration.txt", "out", "test.txt"]);
    assert_eq!(before, fs::read(Path::new(&output).join("model.safetensors")).unwrap());
}

/// What a killed run has left goes with the next that makes the same output; while one makes it, another is refused.
#[cfg(unix)]
#[test]
fn leftovers_of_a_killed_run_are_removed() {
    let place = Place::new();
    let output = place.path("out");
    let mut child = long_run(&place, &[]);
    let (code, _, errors) = run(&["prune", &place.model, "--calibration", &place.path("calibration.txt"), "--output", &output]);
    assert!(code == 1 && errors.contains("is being made by another run"), "{errors}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.names().iter().filter(|name| name.starts_with(".out.partial-")).count(), 1);
    place.prune(&place.model, "out", &["--ratio", "0.2"]);
    assert_eq!(place.names(), ["calibration.txt", "out", "test.txt"]);
    // Nothing of the making is left in the result.
    let hidden = fs::read_dir(&output).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count();
    assert_eq!(hidden, 0);
}
