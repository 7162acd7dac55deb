//! `calibrate`, `merge`, `plan` and `compact` against `prune` at once.

use super::Place;
use crate::support::{run, run_json};
use flap_gpu::plan::Plan;
use flap_gpu::statistics;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

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
    // No options of `prune` make what an edited plan makes: the card names the plan.
    let card = || fs::read_to_string(Path::new(&stepwise).join("README.md")).unwrap();
    assert!(card().contains("flap-gpu prune") && !card().contains("edited"), "{}", card());
    assert_eq!(run_json(&["inspect", &stepwise])["pruned"]["edited"], false);
    let mut edited: Value = serde_json::from_str(&fs::read_to_string(&plan).unwrap()).unwrap();
    let neurons = edited["layers"][0]["neurons"].as_array_mut().unwrap();
    let last = neurons.pop().unwrap().as_u64().unwrap();
    // Another one instead, so that the share is the same.
    let other = (0..last).rev().find(|&place| !neurons.contains(&json!(place))).unwrap();
    neurons.push(json!(other));
    neurons.sort_by_key(Value::as_u64);
    fs::write(&plan, edited.to_string()).unwrap();
    run_json(&["compact", &place.model, "--statistics", &stats, "--plan", &plan, "--output", &stepwise, "--force", "--device", "cpu"]);
    assert!(card().contains("flap-gpu compact") && card().contains("edited") && !card().contains("flap-gpu prune"), "{}", card());
    assert_eq!(run_json(&["inspect", &stepwise])["pruned"]["edited"], true);
    // The weights of `sequential` come with its plan, whatever the statistics.
    place.prune(&place.model, "sequential", &["--ratio", "0.3"]);
    let plan = Path::new(&path("sequential")).join("plan.json");
    let plan = plan.to_str().unwrap();
    let (code, _, stderr) = run(&["compact", &place.model, "--statistics", &stats, "--plan", plan, "--output", &path("none")]);
    assert!(code == 1 && stderr.contains("use `flap-gpu prune`"), "{stderr}");
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
        // Such statistics carry out that plan as well.
        let again = path("again");
        let plan = format!("{at_once}/plan.json");
        run_json(&["compact", &place.model, "--statistics", &merged, "--plan", &plan, "--output", &again, "--device", "cpu"]);
        let read = |folder: &str| std::fs::read(Path::new(folder).join("model.safetensors")).unwrap();
        assert!(read(&again) == read(&stepwise), "{weights}");
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
        // Without the header, which tells the budget.
        let bytes = fs::read(output).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    // 32 windows of 128 tokens with hidden size 96 are 1.5 MB; a batch's activations take 2.4 MB.
    assert!(calibrate("cpu", "in memory", &[]) == calibrate("cpu", "in a file", &["--memory-budget", "3M"]));
    if crate::support::gpu().is_some() {
        assert!(calibrate("gpu", "on the device", &[]) == calibrate("gpu", "on the host", &["--memory-budget", "3500K"]));
    }
    let output = place.path("too small");
    let (code, _, stderr) = run(&["calibrate", &place.model, "--calibration", &text, "--output", &output, "--memory-budget", "100K"]);
    assert!(code == 1 && stderr.contains("--memory-budget"), "{stderr}");
    for (index, (options, most)) in [
        (&["--recipe", "flap", "--samples", "32"][..], 4),
        (&["--recipe", "sequential", "--samples", "32"], 4),
        // Moments of every window stay on the device: a constant part, beside which the rest is little.
        (&["--compat", "--samples", "1000", "--sequence-length", "32", "--batch-tokens", "32"], 8),
    ]
    .into_iter()
    .enumerate()
    {
        let prune = |budget: &str| {
            let fixed = ["prune", &place.model, "--calibration", &text, "--output", &place.path(&index.to_string()), "--device", "cpu"];
            run(&[&fixed[..], options, &["--memory-budget", budget]].concat())
        };
        let (code, _, stderr) = prune("0.3M");
        let enough = stderr.split("--memory-budget ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a budget is named");
        let megabytes: u64 = enough.trim_end_matches('M').parse().unwrap();
        assert!(code == 1 && megabytes <= most, "{stderr}");
        let (code, _, stderr) = prune(enough);
        assert_eq!(code, 0, "{options:?}, {enough}: {stderr}");
    }
    assert_eq!(run(&["calibrate", &place.model, "--calibration", &text, "--output", &output, "--memory-budget", "much"]).0, 2);
}
