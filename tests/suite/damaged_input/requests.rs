//! Texts, statistics, plans and options that do not serve.

use super::{Folder, Q_PROJ, fails, file_bytes, text_of};
use crate::support::run;
use serde_json::{Value, json};
use std::fs;

#[test]
fn texts_that_do_not_serve() {
    let folder = Folder::new();
    let text = |content: &[u8]| fs::write(folder.path("text.txt"), content).unwrap();
    text(b"Too short.");
    folder.prune_fails(&[], &["too few", "--sequence-length"]);
    text(b"");
    folder.prune_fails(&[], &["text.txt", "no text"]);
    text(b"caf\xe9 au lait");
    folder.prune_fails(&[], &["text.txt", "UTF-8"]);
    fs::remove_file(folder.path("text.txt")).unwrap();
    folder.prune_fails(&[], &["text.txt"]);
    let lines = folder.path("text.jsonl");
    fs::write(&lines, "{\"text\": \"a\"}\n{\"body\": \"b\"}\n").unwrap();
    folder.prune_fails(&["--calibration", text_of(&lines)], &["text.jsonl", "line 2", "--text-field"]);
    fs::remove_file(folder.path("model/tokenizer.json")).unwrap();
    fs::write(folder.path("text.txt"), "Once upon a time").unwrap();
    folder.prune_fails(&[], &["tokenizer.json"]);
}

#[test]
fn requests_that_cannot_be_met() {
    let folder = Folder::new();
    for ratio in ["0", "1", "1.5", "-0.2", "NaN", "inf"] {
        folder.prune_fails(&[&format!("--ratio={ratio}")], &["--ratio", "(0, 1)"]);
    }
    folder.prune_fails(&["--method", "wanda-sp", "--round-neurons", "8"], &["wanda-sp", "--round-neurons"]);
    folder.prune_fails(&["--ratio", "0.999"], &["0.999", "cannot be reached"]);
    folder.prune_fails(&["--recipe", "flap", "--round-neurons", "4096"], &["--round-neurons", "256 neurons"]);
    folder.prune_fails(&["--uniform", "--round-neurons", "200", "--ratio", "0.7"], &["0.7", "cannot be reached"]);
    folder.prune_fails(&["--sequence-length", "18446744073709551615"], &["--samples", "tokens"]);
    folder.prune_fails(&["--recipe", "search", "--uniform"], &["search", "--uniform"]);
    folder.prune_fails(&["--method", "magnitude-sp", "--ratio", "0.001", "-q"], &["nothing would be removed", "--ratio 0.001"]);
    // What no plan can be is said before anything is read or measured.
    let nowhere = ["--calibration", "nowhere.txt"];
    let impossible = |options: &[&str], parts: &[&str]| folder.prune_fails(&[&nowhere, options].concat(), parts);
    impossible(&["--structure", "al-mm", "--uniform"], &["al-mm", "--uniform"]);
    impossible(&["--structure", "ul-mm", "--remove-heads", "16", "--ratio", "0.05"], &["0.05", "--remove-heads"]);
    impossible(&["--uniform", "--round-heads", "4", "--ratio", "0.02"], &["no uniform plan", "0.02"]);
    // What would change nothing is not taken in silence.
    folder.prune_fails(&["--recipe", "flap", "--no-refit"], &["--no-refit", "sequential"]);
    folder.prune_fails(&["--method", "magnitude-sp", "--metric", "ifv"], &["--metric", "magnitude-sp"]);
    folder.prune_fails(&["--method", "wanda-sp", "--uniform"], &["--uniform", "wanda-sp"]);
    folder.prune_fails(&["--device", "no such card"], &["no such card", "there are: cpu"]);
    folder.prune_fails(&["--device", "gpu:77"], &["gpu:77", "there are: cpu"]);
    let inside = folder.path("model/pruned");
    folder.prune_fails(&["--output", text_of(&inside)], &["inside the model folder"]);
    folder.prune_fails(&["--output", text_of(&folder.path("model")), "--force"], &["model folder"]);
    folder.prune_fails(&["--output", text_of(folder.temporary.path()), "--force"], &["contains", "model, an input"]);
    folder.prune_fails(&["--output", text_of(&folder.path("no/such/place"))], &["no/such"]);
    fs::create_dir(folder.path("out")).unwrap();
    fs::write(folder.path("out/mine.txt"), "keep me").unwrap();
    folder.prune_fails(&[], &["out", "--force"]);
    folder.prune_fails(&["--force"], &["out", "no pruned model's folder"]);
    assert_eq!(fs::read_to_string(folder.path("out/mine.txt")).unwrap(), "keep me");
}

#[test]
fn statistics_and_plans_of_another_model() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).to_str().unwrap().to_string();
    let (model, text, stats, plan, out) = (path("model"), path("text.txt"), path("stats"), path("plan.json"), path("out"));
    let calibrate = ["calibrate", &model, "--calibration", &text, "--output", &stats, "--samples", "8", "--device", "cpu"];
    assert_eq!(run(&calibrate).0, 0);
    assert_eq!(run(&["plan", &model, "--statistics", &stats, "--output", &plan]).0, 0);
    let compact = ["compact", &model, "--statistics", &stats, "--plan", &plan, "--output", &out, "--device", "cpu"];
    fails(run(&["compact", &model, "--plan", &plan, "--output", &out, "--device", "cpu"]), &["--statistics"]);
    fails(run(&["compact", &model, "--statistics", &plan, "--plan", &plan, "--output", &out]), &["plan.json"]);
    fails(run(&["compact", &model, "--statistics", &stats, "--plan", &stats, "--output", &out]), &["stats"]);
    // The plan says of its calibration what the card will say of the model.
    let others = path("others");
    let other_seed = ["calibrate", &model, "--calibration", &text, "--output", &others, "--samples", "8", "--seed", "5", "--device", "cpu"];
    assert_eq!(run(&other_seed).0, 0);
    fails(run(&["compact", &model, "--statistics", &others, "--plan", &plan, "--output", &out, "--device", "cpu"]), &["plan.json", "seed"]);
    // So it is with token weights, where a fit goes by them.
    let weighted = ["--covariances", "--token-weights", "inverse-square", "--force"];
    assert_eq!(run(&[&calibrate[..], &weighted].concat()).0, 0);
    assert_eq!(run(&["plan", &model, "--statistics", &stats, "--output", &plan, "--recipe", "least-squares", "--force"]).0, 0);
    assert_eq!(run(&[&calibrate[..], &["--covariances", "--force"]].concat()).0, 0);
    fails(run(&["compact", &model, "--statistics", &stats, "--plan", &plan, "--output", &out, "--device", "cpu"]), &["--token-weights"]);
    assert_eq!(run(&["plan", &model, "--statistics", &stats, "--output", &plan, "--force"]).0, 0);
    let whole = fs::read(&stats).unwrap();
    fs::write(&stats, &whole[..whole.len() / 2]).unwrap();
    fails(run(&compact), &["stats", "complete"]);
    // Squares are not negative.
    let mut negative = whole.clone();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&whole[8..8 + length]).unwrap();
    let place = 8 + length + header["layers.1.mlp.m2"]["data_offsets"][0].as_u64().unwrap() as usize;
    negative[place..place + 8].copy_from_slice(&(-5.0f64).to_le_bytes());
    fs::write(&stats, &negative).unwrap();
    fails(run(&compact), &["stats", "layers.1.mlp.m2", "negative"]);
    fs::write(&stats, &whole).unwrap();
    // A folder with an input in it is not replaced.
    fs::create_dir(folder.path("old")).unwrap();
    fs::copy(&plan, folder.path("old/plan.json")).unwrap();
    let (own, old) = (path("old/plan.json"), path("old"));
    fails(run(&["compact", &model, "--statistics", &stats, "--plan", &own, "--output", &old, "--force"]), &["contains", "plan.json"]);
    let text_of_plan = fs::read_to_string(&plan).unwrap();
    let mut hostile: Value = serde_json::from_str(&text_of_plan).unwrap();
    hostile["layers"][0]["neurons"] = json!([5, 3]);
    fs::write(&plan, hostile.to_string()).unwrap();
    fails(run(&compact), &["plan.json", "layer 0"]);
    hostile["layers"][0]["kv_heads"] = json!([usize::MAX]);
    fs::write(&plan, hostile.to_string()).unwrap();
    fails(run(&compact), &["plan.json", "layer 0"]);
    // What a plan says of itself must be so.
    for (key, value, what) in [("ratio_reached", json!(0.9), "ratio_reached"), ("settings", Value::Null, "contradict")] {
        let mut edited: Value = serde_json::from_str(&text_of_plan).unwrap();
        if key == "settings" {
            (edited[key]["recipe"], edited[key]["mask_only"]) = (json!("least-squares"), json!(true));
        } else {
            edited[key] = value;
        }
        fs::write(&plan, edited.to_string()).unwrap();
        fails(run(&compact), &["plan.json", what]);
    }
    fs::write(&plan, text_of_plan).unwrap();
    // In a folder it may be another model's.
    fs::copy(&plan, folder.path("model/plan.json")).unwrap();
    let (code, shown, notes) = run(&["inspect", &model]);
    assert!(code == 0 && !shown.contains("removed") && notes.contains("of another model"), "{shown}{notes}");
    fs::remove_file(folder.path("model/plan.json")).unwrap();
    folder.poison(Q_PROJ, &[0.5]);
    fails(run(&compact), &["plan", "another model"]);
    fails(run(&["plan", &model, "--statistics", &stats, "--output", &path("plan2.json")]), &["another model"]);
    assert!(!folder.path("out").exists() && !folder.path("plan2.json").exists());
}

#[test]
fn token_ids_beyond_the_vocabulary() {
    let folder = Folder::new();
    let (tokens, out) = (folder.path("tokens.safetensors"), folder.path("logits.safetensors"));
    let write = |ids: &[i64]| {
        let content: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let header = json!({"input_ids": {"dtype": "I64", "shape": [1, ids.len()], "data_offsets": [0, content.len()]}});
        fs::write(&tokens, file_bytes(header.to_string().as_bytes(), &content)).unwrap();
    };
    let model = folder.path("model");
    let forward = || run(&["forward", text_of(&model), "--tokens", text_of(&tokens), "--output", text_of(&out), "--device", "cpu"]);
    write(&[1, 512]);
    fails(forward(), &["512", "vocabulary"]);
    write(&[1, -1]);
    fails(forward(), &["tokens.safetensors", "negative"]);
    write(&[]);
    fails(forward(), &["tokens.safetensors", "not empty"]);
    assert!(!out.exists());
    write(&[1, 511]);
    assert_eq!(forward().0, 0);
}
