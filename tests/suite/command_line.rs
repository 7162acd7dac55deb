//! The built program, as a user runs it, on the small model of the demo.

use crate::support::{data, demo_model, normalised_squared_error, run, run_json};
use flap_gpu::calibration::{CalibrationOptions, calibrate};
use flap_gpu::checkpoint::{OutputFile, OutputFolder, TensorFile, Tokenizer};
use flap_gpu::engine::cpu::CpuEngine;
use flap_gpu::model::Model;
use flap_gpu::pass::PassOptions;
use flap_gpu::plan::Plan;
use flap_gpu::progress::{Progress, Silent};
use flap_gpu::resume::ResumeState;
use flap_gpu::statistics::{self, Mode};
use serde_json::Value;
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Paths in a temporary folder that holds the demo's texts.
struct Place {
    folder: tempfile::TempDir,
    model: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("calibration.txt"), include_str!("../../demo/calibration.txt")).unwrap();
        fs::write(folder.path().join("test.txt"), include_str!("../../demo/test.txt")).unwrap();
        Self { folder, model: demo_model().to_str().unwrap().to_string() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn prune(&self, model: &str, output: &str, more: &[&str]) -> Value {
        let (text, output) = (self.path("calibration.txt"), self.path(output));
        run_json(&[&["prune", model, "--calibration", &text, "--output", &output, "--samples", "64", "--device", "cpu"], more].concat())
    }

    fn perplexity(&self, model: &str) -> f64 {
        let report =
            run_json(&["eval", model, "--text", &self.path("test.txt"), "--sequence-length", "128", "--windows", "40", "--device", "cpu"]);
        assert_eq!(report["windows"], 40);
        assert_eq!(report["tokens"], 40 * 128);
        assert_eq!(report["sequence_length"], 128);
        assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["device"].as_str().unwrap().starts_with("cpu"));
        report["perplexity"].as_f64().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_pruned_folder_is_a_model_again() {
    let place = Place::new();
    let report = place.prune(&place.model, "half", &["--ratio", "0.5"]);
    let half = place.path("half");
    assert!((report["ratio_reached"].as_f64().unwrap() - 0.5).abs() < 0.01, "{report}");
    assert!(report["parameters_after"].as_u64().unwrap() < report["parameters_before"].as_u64().unwrap());
    assert_eq!(report["layers"].as_array().unwrap().len(), 4);
    assert_eq!(report["calibration"]["tokens"], 64 * 128);
    assert_eq!(report["output"], half.as_str());
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "plan.json"] {
        assert!(Path::new(&half).join(file).is_file(), "{file}");
    }
    let (dense, pruned) = (place.perplexity(&place.model), place.perplexity(&half));
    assert!(dense < pruned && pruned < 10.0 * dense, "dense {dense}, pruned {pruned}");

    let inspected = run_json(&["inspect", &half]);
    assert_eq!(inspected["parameters"], report["parameters_after"]);
    for (kept, layer) in report["layers"].as_array().unwrap().iter().zip(inspected["layers"].as_array().unwrap()) {
        assert_eq!((&kept["heads"], &kept["neurons"]), (&layer["heads"], &layer["neurons"]));
    }
    assert_eq!(run_json(&["inspect", &place.path("half/plan.json")])["ratio_reached"], report["ratio_reached"]);

    let again = place.prune(&half, "quarter", &["--ratio", "0.3"]);
    assert_eq!(again["parameters_before"], report["parameters_after"]);
    assert!(place.perplexity(&place.path("quarter")) > pruned);
}

#[test]
fn three_steps_give_what_prune_gives() {
    let place = Place::new();
    place.prune(&place.model, "at-once", &["--ratio", "0.3", "--recipe", "flap"]);
    let path = |name: &str| place.path(name);
    let (text, stats, plan, stepwise) = (path("calibration.txt"), path("stats"), path("plan.json"), path("stepwise"));
    let report = run_json(&["calibrate", &place.model, "--calibration", &text, "--output", &stats, "--samples", "64", "--device", "cpu"]);
    assert_eq!(report["calibration"]["tokens"], 64 * 128);
    assert_eq!(run_json(&["inspect", &stats])["complete"], true);
    run_json(&["plan", &place.model, "--statistics", &stats, "--output", &plan, "--ratio", "0.3"]);
    run_json(&["compact", &place.model, "--statistics", &stats, "--plan", &plan, "--output", &stepwise, "--device", "cpu"]);
    for file in ["config.json", "model.safetensors", "plan.json"] {
        assert_eq!(fs::read(Path::new(&path("at-once")).join(file)).unwrap(), fs::read(Path::new(&stepwise).join(file)).unwrap(), "{file}");
    }
}

/// The default recipe says what it gained over plain FLAP, and takes none of FLAP's own options.
#[test]
fn recipes_beat_flap_and_say_so() {
    let place = Place::new();
    for recipe in ["least-squares", "sequential", "search"] {
        let report = place.prune(&place.model, recipe, &["--ratio", "0.4", "--recipe", recipe]);
        let (own, flap) = (report["divergence"]["recipe"].as_f64().unwrap(), report["divergence"]["flap"].as_f64().unwrap());
        assert!(own > 0.0 && own < 0.7 * flap, "{recipe}: {own} against {flap}");
        assert!((report["ratio_reached"].as_f64().unwrap() - 0.4).abs() < 1e-3, "{report}");
        assert!(!Path::new(&place.path(recipe)).join("flap").exists());
    }
    let card = fs::read_to_string(Path::new(&place.path("sequential")).join("README.md")).unwrap();
    assert!(card.contains("recipe sequential") && !card.contains("AAAI"), "{card}");
    let flap = place.prune(&place.model, "flap", &["--ratio", "0.4", "--recipe", "flap"]);
    assert!(flap.get("divergence").is_none());
    let perplexity = |name: &str| place.perplexity(&place.path(name));
    assert!(perplexity("sequential") < perplexity("flap") && perplexity("least-squares") < perplexity("flap"));
    let (code, _, message) = run(&[
        "prune",
        &place.model,
        "--calibration",
        &place.path("calibration.txt"),
        "--samples",
        "64",
        "--device",
        "cpu",
        "--output",
        &place.path("searched"),
        "--recipe",
        "search",
        "--ratio",
        "0.3",
        "--round-neurons",
        "8",
    ]);
    assert!(code == 0 && message.contains("the search tries"), "{message}");
    let plan = Plan::read(&Path::new(&place.path("searched")).join("plan.json")).unwrap();
    assert!(plan.ratio_reached >= 0.3 && plan.layers.iter().all(|layer| layer.neurons.len() % 8 == 0), "{}", plan.ratio_reached);
    // The default, when nothing speaks for FLAP.
    place.prune(&place.model, "default", &["--ratio", "0.4"]);
    let weights = |name: &str| fs::read(Path::new(&place.path(name)).join("model.safetensors")).unwrap();
    assert!(weights("default") == weights("sequential"));
    let text = place.path("calibration.txt");
    let (code, _, message) =
        run(&["prune", &place.model, "--calibration", &text, "--output", &place.path("x"), "--recipe", "sequential", "--metric", "ifv"]);
    assert!(code == 1 && message.contains("--metric belongs to --recipe flap"), "{message}");
}

#[test]
fn masking_keeps_the_shapes_and_the_function() {
    let place = Place::new();
    let removed = place.prune(&place.model, "removed", &["--ratio", "0.3", "--recipe", "flap"]);
    let masked = place.prune(&place.model, "masked", &["--ratio", "0.3", "--mask-only"]);
    assert!(masked["parameters_after"].as_u64() > removed["parameters_after"].as_u64());
    let (a, b) = (place.perplexity(&place.path("removed")), place.perplexity(&place.path("masked")));
    assert!((a / b - 1.0).abs() < 1e-5, "{a} and {b}");
}

#[test]
fn every_method_and_structure_runs() {
    let place = Place::new();
    for (index, more) in [
        ["--method", "wanda-sp"],
        ["--method", "magnitude-sp"],
        ["--structure", "al-mm"],
        ["--structure", "ul-mm"],
        ["--structure", "ul-um"],
        ["--metric", "ifv"],
        ["--metric", "wifn"],
        ["--compensation", "none"],
        ["--round-neurons", "32"],
    ]
    .into_iter()
    .enumerate()
    {
        let report = place.prune(&place.model, &format!("out{index}"), &[&more[..], &["--ratio", "0.3"]].concat());
        let reached = report["ratio_reached"].as_f64().unwrap();
        // A third of three KV heads is the smallest share of attention that can go, and rounding down leaves them all.
        assert!((reached - 0.3).abs() < 0.1, "{more:?}: {reached}");
        if more[0] == "--round-neurons" {
            assert!(report["layers"].as_array().unwrap().iter().all(|l| l["neurons"].as_u64().unwrap() % 32 == 0));
        }
    }
}

#[test]
fn shards_merge_to_one_run() {
    let place = Place::new();
    let text = place.path("calibration.txt");
    let calibrate = |output: &str, more: &[&str]| {
        let output = place.path(output);
        let fixed = ["calibrate", &place.model, "--calibration", &text, "--output", &output, "--samples", "100", "--device", "cpu"];
        run(&[&fixed, more].concat())
    };
    assert_eq!(calibrate("whole", &[]).0, 0);
    let parts: Vec<String> = (1..=3).map(|i| format!("part{i}")).collect();
    for (index, part) in parts.iter().enumerate() {
        assert_eq!(calibrate(part, &["--shard", &format!("{}/3", index + 1)]).0, 0);
    }
    let paths: Vec<String> = [2, 0, 1].map(|i: usize| place.path(&parts[i])).into();
    let (some, merged) = (place.path("some"), place.path("merged"));
    let report = run_json(&["merge", &paths[0], &paths[1], "--output", &some]);
    assert_eq!(report["complete"], false);
    let (code, _, stderr) = run(&["plan", &place.model, "--statistics", &some, "--output", &place.path("p.json")]);
    assert!(code == 1 && stderr.contains("merge the missing shards"), "{stderr}");
    assert_eq!(run_json(&["merge", &some, &paths[2], "--output", &merged])["complete"], true);
    let (code, _, stderr) = run(&["merge", &paths[0], &paths[0], "--output", &place.path("twice")]);
    assert!(code == 1 && stderr.contains("measured by two"), "{stderr}");
    let (code, _, stderr) = calibrate("compat", &["--compat", "--shard", "1/3"]);
    assert!(code == 1 && stderr.contains("cannot be sharded"), "{stderr}");

    let whole = statistics::read(Path::new(&place.path("whole"))).unwrap();
    let merged = statistics::read(Path::new(&merged)).unwrap();
    assert_eq!(whole.header, merged.header);
    for (a, b) in whole.layers.iter().zip(&merged.layers) {
        for (a, b) in [(&a.attention, &b.attention), (&a.mlp, &b.mlp)] {
            let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs() / (a.abs() + 1e-30)).fold(0.0, f64::max);
            assert!(apart(&a.fluctuation(), &b.fluctuation()) < 1e-12);
            assert!(apart(a.mean(), b.mean()) < 1e-9);
        }
    }
}

/// Covariances of shards, merged, give the model that one run gives.
#[test]
fn least_squares_can_be_sharded() {
    let place = Place::new();
    let (text, at_once) = (place.path("calibration.txt"), place.path("at-once"));
    let own = ["--recipe", "least-squares", "--ratio", "0.3"];
    for (weights, name) in [("equal", "e"), ("inverse-square", "i")] {
        place.prune(&place.model, "at-once", &[&own[..], &["--token-weights", weights, "--force"]].concat());
        let path = |what: &str| place.path(&format!("{what}-{name}"));
        let fixed = ["calibrate", &place.model, "--calibration", &text, "--samples", "64", "--device", "cpu", "--covariances"];
        let parts: Vec<String> = ["1/3", "2/3", "3/3"].iter().map(|part| path(&part[..1])).collect();
        for (index, part) in parts.iter().enumerate() {
            run_json(&[&fixed[..], &["--token-weights", weights, "--shard", &format!("{}/3", index + 1), "--output", part]].concat());
        }
        let (merged, plan, stepwise) = (path("merged"), format!("{}.json", path("plan")), path("stepwise"));
        run_json(&["merge", &parts[1], &parts[0], &parts[2], "--output", &merged]);
        let plan_from =
            |statistics: &str| run(&[&["plan", &place.model, "--statistics", statistics, "--output", &plan, "--force"], &own[..]].concat());
        let (code, _, message) = plan_from(&merged);
        assert_eq!(code, 0, "{message}");
        run_json(&["compact", &place.model, "--statistics", &merged, "--plan", &plan, "--output", &stepwise, "--device", "cpu"]);
        let plan_of = |folder: &str| Plan::read(&Path::new(folder).join("plan.json")).unwrap();
        let (one, other) = (plan_of(&at_once), plan_of(&stepwise));
        assert_eq!((&one.layers, &one.settings), (&other.layers, &other.settings));
        // Sums in another order, covariances rounded to f32 once more.
        let (a, b) = (place.perplexity(&at_once), place.perplexity(&stepwise));
        assert!((a / b - 1.0).abs() < 1e-4, "{a} and {b}");
        let (code, _, message) =
            run(&["plan", &place.model, "--statistics", &merged, "--output", &plan, "--force", "--recipe", "sequential"]);
        assert!(code == 1 && message.contains("flap-gpu prune --recipe sequential"), "{message}");
        // FLAP plans from the same statistics; a part alone does not serve; without covariances it says so.
        run_json(&["plan", &place.model, "--statistics", &merged, "--output", &format!("{}.flap.json", path("plan"))]);
        let (code, _, message) = plan_from(&parts[0]);
        assert!(code == 1 && message.contains("merge the missing shards"), "{message}");
    }
    let plain = place.path("plain");
    run_json(&["calibrate", &place.model, "--calibration", &text, "--samples", "64", "--device", "cpu", "--output", &plain]);
    let command = ["plan", &place.model, "--statistics", &plain, "--output", &place.path("p.json"), "--recipe", "least-squares"];
    let (code, _, message) = run(&command);
    assert!(code == 1 && message.contains("--covariances"), "{message}");
    let (code, _, message) = run(&["merge", &plain, &place.path("1-e"), "--output", &place.path("mixed")]);
    assert!(code == 1 && message.contains("differ in --covariances"), "{message}");
}

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

#[test]
fn an_interrupted_calibration_goes_on() {
    let engine = CpuEngine::default();
    let model = Model::open(&demo_model()).unwrap();
    let tokens = Tokenizer::open(&model.path).unwrap().encode(include_str!("../../demo/calibration.txt")).unwrap();
    let options = CalibrationOptions { samples: 20, sequence_length: 64, seed: 3, mode: Mode::Exact, shard: None };
    let set = options.draw(&model, &tokens).unwrap();
    let passes = PassOptions { batch_tokens: Some(256), ..PassOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    // Saved after every layer but the last. What stands after the last save is what an interrupted run leaves.
    let state = ResumeState::beside(&folder.path().join("stats"), Duration::ZERO);
    let whole = calibrate(&engine, &model, &set, passes, Some(&state), &Silent).unwrap();
    let announced = Announced(Cell::new(0));
    let resumed = calibrate(&engine, &model, &set, passes, Some(&state), &announced).unwrap();
    assert_eq!(announced.0.get(), 20 * 64, "one layer was left to do");
    assert_eq!(resumed, whole);
    let other = CalibrationOptions { seed: 4, ..options }.draw(&model, &tokens).unwrap();
    calibrate(&engine, &model, &other, passes, Some(&state), &announced).unwrap();
    assert_eq!(announced.0.get(), 4 * 20 * 64, "another run's state is not used");
    state.remove();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn forward_saves_logits_and_site_inputs() {
    let place = Place::new();
    let golden = data("golden/llama-biased-f32");
    let (tokens, output) = (golden.join("golden.safetensors"), place.path("out.safetensors"));
    let report = run_json(&[
        "forward",
        golden.to_str().unwrap(),
        "--tokens",
        tokens.to_str().unwrap(),
        "--output",
        &output,
        "--taps",
        "--device",
        "cpu",
    ]);
    let (theirs, ours) = (TensorFile::open(&tokens).unwrap(), TensorFile::open(Path::new(&output)).unwrap());
    assert_eq!(report["tensors"].as_u64().unwrap() as usize, ours.names().len());
    for name in ours.names() {
        let values = |file: &TensorFile| bytemuck::pod_collect_to_vec::<u8, f32>(file.bytes(name).unwrap().as_ref());
        assert_eq!(ours.info(name).unwrap().shape, theirs.info(name).unwrap().shape, "{name}");
        assert!(normalised_squared_error(&values(&ours), &values(&theirs)) < 1e-8, "{name}");
    }
}

/// Models whose reference activations come from a model object cast to 16 bits need the cast of its rotary frequencies too.
#[test]
fn forward_can_cast_rotary_frequencies() {
    let place = Place::new();
    let golden = data("golden/qwen2-bf16");
    let tokens = golden.join("golden.safetensors");
    let error = |name: &str, more: &[&str]| {
        let output = place.path(name);
        run_json(
            &[&["forward", golden.to_str().unwrap(), "--tokens", tokens.to_str().unwrap(), "--output", &output, "--device", "cpu"], more]
                .concat(),
        );
        let values =
            |path: &Path| bytemuck::pod_collect_to_vec::<u8, f32>(TensorFile::open(path).unwrap().bytes("logits").unwrap().as_ref());
        normalised_squared_error(&values(Path::new(&output)), &values(&tokens))
    };
    assert!(error("cast", &["--cast-rope"]) < 1e-8);
    assert!(error("exact", &[]) > 1e-8);
}

#[test]
fn output_is_replaced_only_when_forced() {
    let place = Place::new();
    place.prune(&place.model, "out", &["--ratio", "0.2"]);
    let first = fs::read(Path::new(&place.path("out")).join("model.safetensors")).unwrap();
    let (text, output) = (place.path("calibration.txt"), place.path("out"));
    let (code, _, stderr) = run(&["prune", &place.model, "--calibration", &text, "--output", &output, "--device", "cpu"]);
    assert!(code == 1 && stderr.contains("--force"), "{stderr}");
    assert_eq!(first, fs::read(Path::new(&output).join("model.safetensors")).unwrap());
    place.prune(&place.model, "out", &["--ratio", "0.5", "--force"]);
    assert!(fs::metadata(Path::new(&output).join("model.safetensors")).unwrap().len() < first.len() as u64);
    assert_eq!(place.names(), ["calibration.txt", "out", "test.txt"]);
}

/// What takes an output's place while the work goes on is somebody's, and the work is not lost either.
#[test]
fn output_that_appears_meanwhile_is_not_replaced() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("stats");
    let output = OutputFile::create(&path, &[], false).unwrap();
    fs::write(output.path(), "finished").unwrap();
    fs::write(&path, "precious").unwrap();
    let message = output.commit().unwrap_err().to_string();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let kept = message.rsplit_once(" lies in ").expect(&message).1;
    assert_eq!(fs::read_to_string(kept).unwrap(), "finished");

    let path = place.path().join("model");
    let output = OutputFolder::create(&path, Path::new(env!("CARGO_MANIFEST_DIR")), false).unwrap();
    fs::write(output.path().join("finished"), "").unwrap();
    fs::create_dir(&path).unwrap();
    let message = output.commit().unwrap_err().to_string();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    assert!(Path::new(message.rsplit_once(" lies in ").expect(&message).1).join("finished").is_file());
    // Inputs stay what they are, with --force too.
    let input = place.path().join("text");
    fs::write(&input, "text").unwrap();
    assert!(OutputFile::create(&input, &[&input], true).is_err());
}

#[test]
fn the_demo_tells_what_it_did() {
    let report = run_json(&["demo", "--device", "cpu"]);
    let models = report["models"].as_array().unwrap();
    let perplexity = |i: usize| models[i]["perplexity"].as_f64().unwrap();
    assert_eq!(models.len(), 5);
    assert!((perplexity(0) - 1.82).abs() < 0.01, "the dense model's perplexity is {}", perplexity(0));
    // FLAP and the sequential recipe at 20 and at 50 %.
    assert!(perplexity(0) < perplexity(1) && perplexity(1) < perplexity(3));
    assert!(perplexity(2) < perplexity(1) && perplexity(4) < perplexity(3));
    let (code, stdout, _) = run(&["demo", "--device", "cpu"]);
    assert_eq!(code, 0);
    for part in ["dense", "20 % pruned, flap", "50 % pruned, sequential", "perplexity", "flap-gpu prune"] {
        assert!(stdout.contains(part), "{part} is not in {stdout}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["prune"][..],
        &["nonsense"],
        &["prune", "a", "--output", "b", "--ratio", "much"],
        &["calibrate", "a", "--output", "b", "--shard", "3/2"],
        &["eval", "a"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("error:"), "{stderr}");
    }
    assert_eq!(run(&["--help"]).0, 0);
    assert_eq!(run(&["--version"]).1, format!("flap-gpu {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn quiet_is_quiet_and_completions_exist() {
    let place = Place::new();
    let (text, output) = (place.path("calibration.txt"), place.path("out"));
    let (code, _, stderr) =
        run(&["prune", &place.model, "--calibration", &text, "--output", &output, "--samples", "8", "--device", "cpu", "--quiet"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, stdout, _) = run(&["completions", shell]);
        assert!(code == 0 && stdout.contains("flap-gpu") && stdout.contains("round-neurons"), "{shell}");
    }
}

#[test]
fn devices_are_listed() {
    let report = run_json(&["devices"]);
    assert_eq!(report["cpu"]["kind"], "cpu");
    for adapter in report["adapters"].as_array().unwrap() {
        assert!(adapter["name"].is_string() && adapter["max_buffer_size"].as_u64().unwrap() > 0, "{adapter}");
    }
}

/// Ctrl-C: exit code 1, an earlier output intact, no temporary files left.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    place.prune(&place.model, "out", &["--ratio", "0.2"]);
    let before = fs::read(Path::new(&place.path("out")).join("model.safetensors")).unwrap();
    let (text, output) = (place.path("calibration.txt"), place.path("out"));
    let arguments =
        ["prune", &place.model, "--calibration", &text, "--output", &output, "--force", "--samples", "400000", "--device", "cpu"];
    let child =
        std::process::Command::new(env!("CARGO_BIN_EXE_flap-gpu")).args(arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let started = std::time::Instant::now();
    while place.names().len() < 4 {
        assert!(started.elapsed() < Duration::from_secs(30), "no temporary folder appeared");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let finished = child.wait_with_output().unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", String::from_utf8_lossy(&finished.stderr));
    assert!(String::from_utf8_lossy(&finished.stderr).contains("interrupted"));
    assert_eq!(place.names(), ["calibration.txt", "out", "test.txt"]);
    assert_eq!(before, fs::read(Path::new(&output).join("model.safetensors")).unwrap());
}

/// A reader that goes away early, such as `| head -1`, is not an error.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error() {
    for arguments in [&["completions", "bash"][..], &["inspect", demo_model().to_str().unwrap()]] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_flap-gpu"))
            .args(arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let finished = child.wait_with_output().unwrap();
        assert!(finished.status.success(), "{}", String::from_utf8_lossy(&finished.stderr));
    }
}

/// Wherever hidden states stay between layers, the statistics are the same to the bit.
#[test]
fn a_small_memory_budget_changes_nothing() {
    let place = Place::new();
    let text = place.path("calibration.txt");
    let calibrate = |device: &str, output: &str, more: &[&str]| {
        let output = place.path(output);
        let fixed = ["calibrate", &place.model, "--calibration", &text, "--output", &output, "--samples", "32", "--batch-tokens", "512"];
        let (code, _, stderr) = run(&[&fixed, &["--device", device][..], more].concat());
        assert_eq!(code, 0, "{stderr}");
        fs::read(output).unwrap()
    };
    // 32 windows of 128 tokens with hidden size 96 are 1.5 MB; a batch's activations take 1.9 MB.
    assert_eq!(calibrate("cpu", "in memory", &[]), calibrate("cpu", "in a file", &["--memory-budget", "2500K"]));
    if crate::support::gpu().is_some() {
        assert_eq!(calibrate("gpu", "on the device", &[]), calibrate("gpu", "on the host", &["--memory-budget", "2900K"]));
    }
    let output = place.path("too small");
    let (code, _, stderr) = run(&["calibrate", &place.model, "--calibration", &text, "--output", &output, "--memory-budget", "100K"]);
    assert!(code == 1 && stderr.contains("--memory-budget"), "{stderr}");
    assert_eq!(run(&["calibrate", &place.model, "--calibration", &text, "--output", &output, "--memory-budget", "much"]).0, 2);
}

#[test]
fn bench_reports_rates_and_compares_them() {
    let place = Place::new();
    let report = place.path("bench.json");
    let (code, stdout, stderr) = run(&["bench", "--device", "cpu", "--output", &report, "--quiet"]);
    assert_eq!(code, 0, "{stderr}");
    for part in ["product f32", "7B", "decoder layer", "rms_norm", "moments", "GFLOP/s", "GB/s", "tokens/s"] {
        assert!(stdout.contains(part), "{part} is not in {stdout}");
    }
    let written: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    let measurements = written["devices"][0]["measurements"].as_array().unwrap();
    assert!(measurements.len() > 10 && measurements.iter().all(|m| m["value"].as_f64().unwrap() > 0.0));
    let (code, _, stderr) = run(&["bench", "--device", "cpu", "--compare", &place.path("test.txt")]);
    assert!(code == 1 && stderr.contains("test.txt"), "{stderr}");
}

/// Measured on request, and said in the report and in the model card.
#[test]
fn pruning_can_measure_what_it_costs() {
    let place = Place::new();
    let report = place.prune(&place.model, "measured", &["--evaluate", &place.path("test.txt"), "--windows", "20"]);
    let eval = |model: &str| {
        let report = run_json(&["eval", model, "--text", &place.path("test.txt"), "--windows", "20", "--device", "cpu"]);
        report["perplexity"].as_f64().unwrap()
    };
    assert_eq!(report["perplexity"]["dense"].as_f64().unwrap(), eval(&place.model));
    assert_eq!(report["perplexity"]["pruned"].as_f64().unwrap(), eval(&place.path("measured")));
    let card = fs::read_to_string(Path::new(&place.path("measured")).join("README.md")).unwrap();
    assert!(card.contains(&format!("{:.4}", eval(&place.model))), "{card}");
}

/// Both forms of output, and reading them back.
#[test]
fn a_pruned_gguf_file_is_a_model_too() {
    let place = Place::new();
    let report = place.prune(&place.model, "both", &["--ratio", "0.3", "--format", "hf", "--format", "gguf", "--gguf-type", "f32"]);
    let file = report["gguf"][0].as_str().unwrap().to_string();
    assert_eq!(Path::new(&file), Path::new(&place.path("both")).join("both-F32.gguf"));
    let (folder, gguf) = (place.perplexity(&place.path("both")), place.perplexity(&file));
    // The same weights, f16 in the folder and widened in the file; sums in the same order.
    assert!((folder / gguf - 1.0).abs() < 1e-6, "{folder} {gguf}");
    let shown = run_json(&["inspect", &file]);
    assert_eq!((&shown["kind"], &shown["parameters"]), (&Value::from("model"), &report["parameters_after"]));
    // A folder converted later gives the same file as one written with it, but for what it says of its source.
    let later = place.path("later.gguf");
    run_json(&["convert", &place.path("both"), "--output", &later, "--gguf-type", "f32"]);
    let entries = |path: &str| {
        let model = Model::open(Path::new(path)).unwrap();
        model.tensors.entries().iter().map(|e| (e.name.clone(), e.bytes.as_ref().to_vec())).collect::<Vec<_>>()
    };
    assert!(entries(&file) == entries(&later));
    let (code, _, message) = run(&["convert", &place.path("both"), "--output", &later]);
    assert!(code == 1 && message.contains("--force"), "{message}");
    // A GGUF file alone makes no model folder, and cannot be pruned.
    let alone = place.prune(&place.model, "alone", &["--format", "gguf"]);
    assert!(alone["gguf"][0].as_str().unwrap().ends_with("alone-F16.gguf"));
    assert!(!Path::new(&place.path("alone")).join("config.json").exists());
    let (code, _, message) = run(&["plan", &file, "--statistics", "none", "--output", &place.path("p.json")]);
    assert!(code == 1 && message.contains("not a folder"), "{message}");
}

#[test]
fn a_client_gets_what_it_loads() {
    let place = Place::new();
    let sizes = |report: &Value, key: &str| -> Vec<u64> {
        report["layers"].as_array().unwrap().iter().map(|layer| layer[key].as_u64().unwrap()).collect()
    };
    let llama = place.prune(&place.model, "llama", &["--for", "llama.cpp", "--ratio", "0.4"]);
    assert_eq!(llama["gguf"].as_array().unwrap().len(), 1);
    // The folder that holds it is the model.
    assert_eq!(run_json(&["inspect", &place.path("llama")])["parameters"], llama["parameters_after"]);
    // 256 neurons allow blocks of 32, not of 256.
    assert!(sizes(&llama, "neurons").iter().all(|n| n % 32 == 0), "{llama}");
    let vllm = place.prune(&place.model, "vllm", &["--for", "vllm", "--ratio", "0.4"]);
    for key in ["heads", "neurons"] {
        assert!(sizes(&vllm, key).windows(2).all(|pair| pair[0] == pair[1]), "{vllm}");
    }
    let config: Value = serde_json::from_str(&fs::read_to_string(Path::new(&place.path("vllm")).join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["architectures"][0], config.get("auto_map")), (&Value::from("LlamaForCausalLM"), None));
    assert_eq!(config["mlp_bias"], true);
    assert_eq!(config["attention_bias"], true);
    // The zero biases that its class asks for count as well.
    assert_eq!(run_json(&["inspect", &place.path("vllm")])["parameters"], vllm["parameters_after"]);
    // What no client's file can hold is refused before anything is measured.
    let qwen3 = data("golden/qwen3-bf16");
    let (code, _, message) =
        run(&["prune", qwen3.to_str().unwrap(), "--output", &place.path("q"), "--calibration", "none.txt", "--format", "gguf"]);
    assert!(code == 1 && message.contains("--for llama.cpp"), "{message}");
    // Nor do recipes give it biases that its class does not load.
    for (client, recipe) in [("vllm", "sequential"), ("vllm", "least-squares"), ("llama.cpp", "search")] {
        let (code, _, message) = run(&[
            "prune",
            qwen3.to_str().unwrap(),
            "--output",
            &place.path("q"),
            "--calibration",
            "none.txt",
            "--for",
            client,
            "--recipe",
            recipe,
        ]);
        assert!(code == 1 && message.contains(recipe) && message.contains("--recipe flap"), "{client}: {message}");
    }
    // What is said explicitly stays.
    let explicit =
        place.prune(&place.model, "explicit", &["--for", "llama.cpp", "--format", "hf", "--round-neurons", "8", "--ratio", "0.4"]);
    assert_eq!(explicit["gguf"].as_array().unwrap().len(), 0);
    assert!(sizes(&explicit, "neurons").iter().any(|n| n % 32 != 0), "{explicit}");
}
