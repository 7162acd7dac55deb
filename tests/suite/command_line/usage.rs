//! Arguments, exit codes, what is printed where, and the commands beside pruning.

use super::Place;
#[cfg(unix)]
use crate::support::demo_model;
use crate::support::{data, normalised_squared_error, run, run_json};
use flap_gpu::checkpoint::TensorFile;
use serde_json::Value;
use std::fs;
use std::path::Path;

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
    let script = run_json(&["completions", "bash"])["script"].as_str().unwrap().to_string();
    // The command that bash finds has options to offer.
    for command in script.split("cmd=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0)).filter(|name| !name.is_empty()) {
        assert!(script.contains(&format!(" {command})")), "{command} completes nothing");
    }
}

/// Scripts find notes and errors in the document, too.
#[test]
fn a_json_document_has_notes_and_errors() {
    let place = Place::new();
    let report = place.prune(&place.model, "out", &["--method", "magnitude-sp"]);
    let notes = report["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().contains("the calibration text is not used")), "{notes:?}");
    let (code, stdout, stderr) = run(&["inspect", &place.path("nothing"), "--json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, format!("error: {}\n", document["error"].as_str().unwrap())), (1, stderr));
    for (wrong, what) in [(&["plan", "--json"][..], "--statistics"), (&["eval", "model", "--json", "--windows", "-5"], "'-5'")] {
        let (code, stdout, stderr) = run(wrong);
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let error = document["error"].as_str().unwrap();
        assert!(code == 2 && error.contains(what) && stderr.trim_end() == format!("error: {error}"), "{error}");
    }
}

/// Paths that are no Unicode are paths; a document shows them as far as it can.
#[cfg(target_os = "linux")]
#[test]
fn outputs_may_have_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let name = std::ffi::OsStr::from_bytes(b"bad\xffname");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flap-gpu"));
    command.args(["prune", &place.model, "--method", "magnitude-sp", "--device", "cpu", "--format", "gguf", "--json", "--output"]);
    let finished = command.arg(Path::new(&place.path("")).join(name)).output().unwrap();
    assert!(finished.status.success(), "{}", String::from_utf8_lossy(&finished.stderr));
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert!(report["output"].as_str().unwrap().contains("name") && report["settings"]["method"] == "magnitude-sp", "{report}");
    assert!(Path::new(&place.path("")).join(name).join("plan.json").is_file());
}

/// Windows are no longer than what a model is made for, unless that is said.
#[test]
fn evaluation_keeps_to_the_context() {
    let place = Place::new();
    let eval = |more: &[&str]| {
        run_json(&[&["eval", &place.model, "--text", &place.path("test.txt"), "--windows", "1", "--device", "cpu"], more].concat())
    };
    let (own, longer) = (eval(&[]), eval(&["--sequence-length", "300"]));
    assert_eq!((&own["sequence_length"], own["notes"].as_array().unwrap().len()), (&Value::from(256), 0));
    assert_eq!((&longer["sequence_length"], longer["notes"].as_array().unwrap().len()), (&Value::from(300), 1));
}

/// `plan` shares its options with `prune`, but does not list what it refuses.
#[test]
fn plan_lists_what_it_takes() {
    let help = |command: &str| run(&[command, "--help"]).1;
    for refused in ["--no-refit", "--method", "sequential:"] {
        assert!(help("prune").contains(refused) && !help("plan").contains(refused), "{refused}");
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

#[test]
fn bench_reports_rates_and_compares_them() {
    let place = Place::new();
    let (report, others) = (place.path("bench.json"), place.path("others.json"));
    fs::write(&others, r#"{"format": "flap-gpu-bench", "version": "0.1.0", "devices": [{"device": "another", "measurements": []}]}"#)
        .unwrap();
    let (code, stdout, stderr) = run(&["bench", "--device", "cpu", "--output", &report, "--compare", &others]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("is not in the report to compare with, which has: another"), "{stderr}");
    for part in ["product f32", "7B", "decoder layer", "rms_norm", "moments", "GFLOP/s", "GB/s", "tokens/s"] {
        assert!(stdout.contains(part), "{part} is not in {stdout}");
    }
    let written: Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
    let measurements = written["devices"][0]["measurements"].as_array().unwrap();
    assert!(measurements.len() > 10 && measurements.iter().all(|m| m["value"].as_f64().unwrap() > 0.0));
    let [peaks, others]: [Vec<&Value>; 2] =
        [true, false].map(|wanted| measurements.iter().filter(|m| (m["kind"] == "peak") == wanted).collect());
    for m in others {
        let peak = peaks.iter().any(|peak| peak["unit"] == m["unit"]);
        assert_eq!(m["share"].as_f64().is_some_and(|share| share > 0.0), peak, "{m}");
    }
    let (code, _, stderr) = run(&["bench", "--device", "cpu", "--compare", &place.path("test.txt")]);
    assert!(code == 1 && stderr.contains("test.txt"), "{stderr}");
}
