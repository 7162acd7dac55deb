//! Output: replaced only when asked for, in the forms that clients load.

use super::Place;
use crate::support::{data, run, run_json};
use flap_gpu::disk::{OutputFile, files};
use flap_gpu::export::folder;
use flap_gpu::model::Model;
use serde_json::Value;
use std::fs;
use std::path::Path;

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
    // Of other files only those go that came along with a model.
    fs::write(Path::new(&output).join("LICENSE.md"), "a licence").unwrap();
    place.prune(&place.model, "out", &["--ratio", "0.5", "--force"]);
    fs::write(Path::new(&output).join("NOTICE_results.csv"), "mine").unwrap();
    let (code, _, stderr) = run(&["prune", &place.model, "--calibration", &text, "--output", &output, "--device", "cpu", "--force"]);
    assert!(code == 1 && stderr.contains("NOTICE_results.csv"), "{stderr}");
}

/// A disk that will be full is named before the work begins.
#[test]
fn a_disk_with_too_little_room_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(files::shortage(folder.path(), 0, "the result", "make room"), None);
    let note = files::shortage(folder.path(), u64::MAX, "the result", "make room").unwrap();
    assert!(note.contains(folder.path().to_str().unwrap()) && note.contains("the result") && note.ends_with("make room"), "{note}");
}

/// Even where it is the current folder, which has another name once it is set aside. Windows renames no folder that is: nothing is lost then.
#[test]
fn the_current_folder_can_be_replaced() {
    let place = Place::new();
    place.prune(&place.model, "out", &["--method", "magnitude-sp"]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_flap-gpu"));
    command.current_dir(place.path("out")).args(["prune", &place.model, "--output", "../out", "--force"]);
    command.args(["--method", "magnitude-sp", "--ratio", "0.5", "--device", "cpu", "--json"]);
    let finished = command.output().unwrap();
    let message = String::from_utf8_lossy(&finished.stderr);
    if cfg!(windows) {
        assert!(finished.status.code() == Some(1) && message.contains("the finished result could not be moved there"), "{message}");
        return;
    }
    assert!(finished.status.success(), "{message}");
    assert_eq!(place.names(), ["calibration.txt", "out", "test.txt"]);
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(run_json(&["inspect", &place.path("out")])["parameters"], report["parameters_after"]);
}

/// A folder with nothing but a GGUF file is an earlier output as well; what is no file is not written over.
#[test]
fn only_earlier_output_is_replaced() {
    let place = Place::new();
    for _ in 0..2 {
        place.prune(&place.model, "small.gguf", &["--format", "gguf", "--method", "magnitude-sp", "--force"]);
        assert!(Path::new(&place.path("small.gguf/small-F16.gguf")).is_file());
    }
    // What the user has put there is not removed, nor a folder of something else.
    let forced =
        |output: &str| run(&["prune", &place.model, "--output", output, "--method", "magnitude-sp", "--format", "gguf", "--force"]);
    for name in ["small-Q4_K_M.gguf", "another-F16.gguf"] {
        let own = place.path(&format!("small.gguf/{name}"));
        fs::write(&own, "precious").unwrap();
        let (code, _, stderr) = forced(&place.path("small.gguf"));
        assert!(code == 1 && stderr.contains(&format!("holds {name} too")), "{stderr}");
        fs::remove_file(&own).unwrap();
    }
    fs::remove_file(place.path("small.gguf/plan.json")).unwrap();
    let (code, _, stderr) = forced(&place.path("small.gguf"));
    assert!(code == 1 && stderr.contains("no pruned model's folder"), "{stderr}");
    assert!(Path::new(&place.path("small.gguf/small-F16.gguf")).is_file());
    // Other projects have a file of that name too.
    fs::write(place.path("small.gguf/plan.json"), "{\"weeks\": 12}").unwrap();
    let (code, _, stderr) = forced(&place.path("small.gguf"));
    assert!(code == 1 && stderr.contains("no pruned model's folder"), "{stderr}");
    // A folder would have a file's name.
    let (code, _, stderr) = run(&["prune", &place.model, "--output", &place.path("other.gguf"), "--method", "magnitude-sp"]);
    assert!(code == 1 && stderr.contains("--format gguf"), "{stderr}");
    #[cfg(unix)]
    {
        let pipe = place.path("pipe");
        let name = std::ffi::CString::new(pipe.as_str()).unwrap();
        // SAFETY: the name is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let (code, _, stderr) = run(&["convert", &place.model, "--output", &pipe, "--force"]);
        assert!(code == 1 && stderr.contains("no ordinary file"), "{stderr}");
    }
}

/// A file that may not become as large is an error like a full disk.
#[cfg(unix)]
#[test]
fn a_limit_on_files_is_an_error() {
    let place = Place::new();
    let output = place.path("out");
    let command = ["prune", &place.model, "--output", &output, "--method", "magnitude-sp", "--device", "cpu"];
    let limited = ["-c", "ulimit -f 100; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_flap-gpu")];
    let finished = std::process::Command::new("sh").args(limited).args(command).output().unwrap();
    let message = String::from_utf8_lossy(&finished.stderr);
    assert!(finished.status.code() == Some(1) && message.contains("cannot write"), "{:?} {message}", finished.status);
    assert_eq!(place.names(), ["calibration.txt", "test.txt"]);
}

/// Layers that differ can be made alike by FLAP alone, which is said before anything is measured.
#[test]
fn layers_that_differ_are_not_fitted_alike() {
    let place = Place::new();
    place.prune(&place.model, "differ", &["--method", "flap", "--ratio", "0.4"]);
    let (code, _, stderr) = run(&[
        "prune",
        &place.path("differ"),
        "--calibration",
        "nowhere.txt",
        "--output",
        &place.path("out"),
        "--uniform",
        "--ratio",
        "0.6",
    ]);
    assert!(code == 1 && stderr.contains("layers are alike") && stderr.contains("--recipe flap"), "{stderr}");
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

    // Even where an earlier result might be replaced.
    for force in [false, true] {
        let path = place.path().join(format!("model {force}"));
        let output = folder::create(&path, &[Path::new(env!("CARGO_MANIFEST_DIR"))], force).unwrap();
        fs::write(output.path().join("finished"), "").unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("precious"), "").unwrap();
        let message = output.commit().unwrap_err().to_string();
        assert!(path.join("precious").is_file() && fs::read_dir(&path).unwrap().count() == 1);
        assert!(Path::new(message.rsplit_once(" lies in ").expect(&message).1).join("finished").is_file());
    }
    // A folder that was made for the output takes it, however it is named.
    let path = place.path().join("empty");
    fs::create_dir(&path).unwrap();
    let output = folder::create(&path.join("."), &[Path::new(env!("CARGO_MANIFEST_DIR"))], false).unwrap();
    fs::write(output.path().join("finished"), "").unwrap();
    output.commit().unwrap();
    assert!(path.join("finished").is_file());
    // Inputs stay what they are, with --force too.
    let input = place.path().join("text");
    fs::write(&input, "text").unwrap();
    assert!(OutputFile::create(&input, &[&input], true).is_err());
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
    assert_eq!(shown["pruned"]["ratio_reached"], report["ratio_reached"]);
    assert_eq!(shown["pruned"]["calibration"]["samples"], 64);
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
    assert!(code == 1 && message.contains("is a GGUF file"), "{message}");
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
