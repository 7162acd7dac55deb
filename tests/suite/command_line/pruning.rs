//! `prune`: recipes, methods and structures, and what the result costs.

use super::Place;
use crate::support::{run, run_json};
use flap_gpu::plan::Plan;
use std::fs;
use std::path::Path;

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
    let inspected = run_json(&["inspect", &place.path("half")]);
    assert!(["weight_bytes", "parameters"].iter().zip(["weight_bytes", "parameters_after"]).all(|(a, b)| inspected[*a] == report[b]));

    let again = place.prune(&half, "quarter", &["--ratio", "0.3"]);
    assert_eq!(again["parameters_before"], report["parameters_after"]);
    assert!(place.perplexity(&place.path("quarter")) > pruned);
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
    let masked = place.prune(&place.model, "masked", &["--ratio", "0.3", "--mask-only", "--format", "gguf", "--format", "hf"]);
    assert!(masked["parameters_after"].as_u64() > removed["parameters_after"].as_u64());
    let (a, b) = (place.perplexity(&place.path("removed")), place.perplexity(&place.path("masked")));
    assert!((a / b - 1.0).abs() < 1e-5, "{a} and {b}");
    for name in ["masked", "masked/masked-F16.gguf", "masked/plan.json"] {
        let (code, shown, _) = run(&["inspect", &place.path(name)]);
        assert!(code == 0 && shown.contains("zeroe") && !shown.contains("remove"), "{name}: {shown}");
    }
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
    // The authors' code leaves the first window out.
    let (text, output) = (place.path("calibration.txt"), place.path("one"));
    let one = ["prune", &place.model, "--calibration", &text, "--output", &output, "--samples", "1", "--compat", "--device", "cpu"];
    let (code, _, stderr) = run(&one);
    assert!(code == 1 && stderr.contains("--compat needs --samples 2"), "{stderr}");
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
    assert_eq!(report["perplexity"]["on"]["text"], "test.txt");
    assert_eq!(report["perplexity"]["on"]["windows"], 20);
    let card = fs::read_to_string(Path::new(&place.path("measured")).join("README.md")).unwrap();
    assert!(card.contains(&format!("{:.4}", eval(&place.model))), "{card}");
}

/// The command in a model card makes the same files again.
#[test]
fn a_card_says_how_to_make_it_again() {
    let place = Place::new();
    for (index, more) in [
        &["--ratio", "0.3", "--no-refit", "--token-weights", "inverse-square", "--seed", "7", "--sequence-length", "96"][..],
        &["--recipe", "least-squares", "--uniform", "--round-neurons", "8"],
        &["--recipe", "flap", "--for", "llama.cpp", "--compensation", "bias", "--uniform", "--format", "hf"],
        &["--metric", "wifn", "--structure", "ul-mm", "--remove-heads", "2", "--compensation", "none", "--compat"],
        &["--method", "wanda-sp", "--ratio", "0.5", "--mask-only"],
        &["--method", "magnitude-sp", "--for", "vllm", "--compat"],
        &["--structure", "al-mm"],
        &["--recipe", "flap", "--precision", "bf16", "--batch-tokens", "200", "--memory-budget", "8M", "--text-field", "body"],
    ]
    .into_iter()
    .enumerate()
    {
        let (first, second) = (format!("first{index}"), place.path(&format!("second{index}")));
        place.prune(&place.model, &first, more);
        let folder = place.path(&first);
        let card = fs::read_to_string(Path::new(&folder).join("README.md")).unwrap();
        let command = card.lines().find_map(|line| line.strip_prefix("flap-gpu ")).expect(&card);
        if let Some(place) = more.iter().position(|&word| word == "--compensation") {
            assert!(command.contains(&more[place..place + 2].join(" ")), "{command}");
        }
        assert_eq!(command.contains("--text-field body"), more.contains(&"--text-field"), "{command}");
        let word = |word: &str| match word {
            "model" => place.model.clone(),
            "DIR" => second.clone(),
            "calibration.txt" => place.path("calibration.txt"),
            other => other.to_string(),
        };
        let words: Vec<String> = command.split(' ').map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run_json(&words);
        for file in ["config.json", "model.safetensors", "plan.json"] {
            let read = |folder: &str| fs::read(Path::new(folder).join(file)).unwrap();
            assert!(read(&folder) == read(&second), "{file} of {command}");
        }
        let plan = Plan::read(&Path::new(&folder).join("plan.json")).unwrap();
        assert!(card.contains(&plan.model.fingerprint) && plan.program == concat!("flap-gpu ", env!("CARGO_PKG_VERSION")));
        if let Some(header) = &plan.calibration {
            assert!(card.contains(&header.text) && card.contains(&header.devices[0]) && header.devices[0].ends_with(" products"), "{card}");
        }
    }
}
