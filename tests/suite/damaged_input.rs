//! Damaged and hostile input: mutated files never panic or read out of bounds, and the command line answers each kind of bad
//! input with exit code 1, one line that names the culprit, and nothing written.

use crate::support::{data, demo_model, noise, run};
use flap_gpu::architecture::Architecture;
use flap_gpu::checkpoint::{Config, TensorFile};
use flap_gpu::engine::Dtype;
use flap_gpu::model::Model;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A model folder to be damaged.
struct Folder {
    temporary: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let model = temporary.path().join("model");
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(demo_model()).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, model.join(from.file_name().unwrap())).unwrap();
        }
        fs::write(temporary.path().join("text.txt"), include_str!("../../demo/test.txt")).unwrap();
        Self { temporary }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn weights(&self) -> PathBuf {
        self.path("model/model.safetensors")
    }

    /// Rewrites the safetensors header, and the data behind it.
    fn edit(&self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = fs::read(self.weights()).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut content = bytes[8 + length..].to_vec();
        change(&mut header, &mut content);
        fs::write(self.weights(), file_bytes(header.to_string().as_bytes(), &content)).unwrap();
    }

    /// Overwrites a tensor's first numbers (bf16).
    fn poison(&self, tensor: &str, values: &[f32]) {
        self.edit(|header, content| {
            let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
            let mut bytes = Vec::new();
            values.iter().for_each(|&v| Dtype::Bf16.push(v, &mut bytes));
            content[start..start + bytes.len()].copy_from_slice(&bytes);
        });
    }

    fn set_config(&self, key: &str, value: Value) {
        let path = self.path("model/config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    fn prune(&self, more: &[&str]) -> (i32, String, String) {
        let (model, text, output) = (self.path("model"), self.path("text.txt"), self.path("out"));
        let mut arguments = vec!["prune", text_of(&model), "--samples", "8"];
        for (option, value) in [("--calibration", text_of(&text)), ("--output", text_of(&output)), ("--device", "cpu")] {
            if !more.contains(&option) {
                arguments.extend([option, value]);
            }
        }
        run(&[&arguments, more].concat())
    }

    /// Pruning fails with one line that holds all of `parts`, and leaves nothing behind.
    fn prune_fails(&self, more: &[&str], parts: &[&str]) {
        let before = self.listing();
        fails(self.prune(more), parts);
        assert_eq!(self.listing(), before, "something was left behind ({parts:?})");
    }

    fn listing(&self) -> Vec<PathBuf> {
        let mut entries: Vec<PathBuf> = fs::read_dir(self.temporary.path()).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        entries
    }
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn file_bytes(header: &[u8], content: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, content].concat()
}

/// Exit code 1, nothing on standard output, one line of error with all of `parts` in it.
fn fails((code, stdout, stderr): (i32, String, String), parts: &[&str]) {
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stdout, "");
    assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "not one line: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
}

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn missing_and_damaged_files() {
    let folder = Folder::new();
    let nowhere = folder.path("nowhere");
    fails(run(&["inspect", text_of(&nowhere)]), &["nowhere"]);
    fails(run(&["eval", text_of(&nowhere), "--text", text_of(&nowhere)]), &["nowhere", "folder"]);
    let weights = fs::read(folder.weights()).unwrap();
    for keep in [0, 7, 8, 1000, weights.len() / 2, weights.len() - 1] {
        fs::write(folder.weights(), &weights[..keep]).unwrap();
        folder.prune_fails(&[], &["model.safetensors", "complete"]);
    }
    fs::remove_file(folder.weights()).unwrap();
    folder.prune_fails(&[], &["model.safetensors"]);
    fs::write(folder.weights(), &weights).unwrap();
    fs::write(folder.path("model/config.json"), "{\"architectures\": [").unwrap();
    folder.prune_fails(&[], &["config.json", "JSON"]);
    fs::remove_file(folder.path("model/config.json")).unwrap();
    folder.prune_fails(&[], &["config.json"]);
}

#[test]
fn headers_that_lie() {
    let change = |change: &dyn Fn(&mut Value, &mut Vec<u8>)| {
        let folder = Folder::new();
        folder.edit(change);
        folder.prune_fails(&[], &["model.safetensors"]);
    };
    change(&|header, _| header[Q_PROJ]["data_offsets"] = json!([0, 1u64 << 40]));
    change(&|header, _| header[Q_PROJ]["data_offsets"] = json!([u64::MAX - 1, u64::MAX]));
    change(&|header, _| header[Q_PROJ]["data_offsets"][0] = json!(0));
    change(&|header, _| header[Q_PROJ]["shape"] = json!([u64::MAX, u64::MAX]));
    change(&|header, _| header[Q_PROJ]["data_offsets"] = header["model.layers.2.self_attn.q_proj.weight"]["data_offsets"].clone());
    change(&|_, content| content.push(0));
    for header in [b"\xff\xfe not text".as_slice(), b"[]", b"{\"a\": 3}"] {
        let folder = Folder::new();
        fs::write(folder.weights(), file_bytes(header, b"")).unwrap();
        folder.prune_fails(&[], &["model.safetensors"]);
    }
    let folder = Folder::new();
    fs::write(folder.weights(), [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat()).unwrap();
    folder.prune_fails(&[], &["model.safetensors"]);
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let folder = Folder::new();
    folder.set_config("intermediate_size", json!(999));
    folder.prune_fails(&[], &["model.safetensors", "mlp.", "shape", "999"]);
    let folder = Folder::new();
    folder.set_config("num_hidden_layers", json!(5));
    folder.prune_fails(&[], &["model.layers.4", "missing"]);
    let folder = Folder::new();
    folder.set_config("num_hidden_layers", json!(3));
    folder.prune_fails(&[], &["model.layers.3", "not part of"]);
    let folder = Folder::new();
    folder.edit(|header, _| header[Q_PROJ]["dtype"] = json!("I16"));
    folder.prune_fails(&[], &[Q_PROJ, "I16", "BF16"]);
    let folder = Folder::new();
    folder.set_config("architectures", json!(["GPT2LMHeadModel"]));
    folder.prune_fails(&[], &["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"]);
    folder.set_config("architectures", json!(["LlamaForCausalLM"]));
    folder.set_config("hidden_act", json!("gelu"));
    folder.prune_fails(&[], &["gelu", "silu"]);
    folder.set_config("hidden_act", json!("silu"));
    folder.set_config("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 10000.0}));
    folder.prune_fails(&[], &["yarn", "llama3"]);
}

#[test]
fn numbers_that_are_not_finite() {
    let folder = Folder::new();
    folder.poison(Q_PROJ, &[f32::NAN]);
    folder.prune_fails(&[], &[Q_PROJ, "NaN", "layer 1"]);
    let folder = Folder::new();
    folder.poison("model.embed_tokens.weight", &vec![f32::INFINITY; 512 * 96]);
    folder.prune_fails(&[], &["model.embed_tokens.weight", "infinity"]);
    // No window need meet them: found when they are copied.
    for (name, count) in [("model.norm.weight", 1), ("model.embed_tokens.weight", 1)] {
        let folder = Folder::new();
        folder.poison(name, &vec![f32::NAN; count]);
        folder.prune_fails(&["--recipe", "flap"], &[name, "NaN"]);
    }
    // Finite weights whose product overflows f32 in layer 2.
    let folder = Folder::new();
    folder.poison("model.layers.2.mlp.up_proj.weight", &noise(1, 256 * 96).iter().map(|n| n * 3e38).collect::<Vec<_>>());
    folder.prune_fails(&[], &["layer 2", "NaN or infinity"]);
}

#[test]
fn shards_outside_the_folder() {
    for name in ["../stolen.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""] {
        let folder = Folder::new();
        fs::rename(folder.weights(), folder.path("stolen.safetensors")).unwrap();
        fs::write(folder.path("model/model.safetensors.index.json"), json!({"weight_map": {"a": name}}).to_string()).unwrap();
        folder.prune_fails(&[], &["index.json", "plain file name"]);
    }
}

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
    // What would change nothing is not taken in silence.
    folder.prune_fails(&["--recipe", "flap", "--no-refit"], &["--no-refit", "sequential"]);
    folder.prune_fails(&["--method", "magnitude-sp", "--metric", "ifv"], &["--metric", "magnitude-sp"]);
    folder.prune_fails(&["--method", "wanda-sp", "--uniform"], &["--uniform", "wanda-sp"]);
    folder.prune_fails(&["--device", "no such card"], &["no such card", "there are: cpu"]);
    folder.prune_fails(&["--device", "gpu:77"], &["gpu:77", "there are: cpu"]);
    let inside = folder.path("model/pruned");
    folder.prune_fails(&["--output", text_of(&inside)], &["inside the model folder"]);
    folder.prune_fails(&["--output", text_of(&folder.path("model")), "--force"], &["model folder"]);
    folder.prune_fails(&["--output", text_of(folder.temporary.path()), "--force"], &["contains the model folder"]);
    folder.prune_fails(&["--output", text_of(&folder.path("no/such/place"))], &["no/such"]);
    fs::create_dir(folder.path("out")).unwrap();
    fs::write(folder.path("out/mine.txt"), "keep me").unwrap();
    folder.prune_fails(&[], &["out", "--force"]);
    folder.prune_fails(&["--force"], &["out", "not a model folder"]);
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
    let whole = fs::read(&stats).unwrap();
    fs::write(&stats, &whole[..whole.len() / 2]).unwrap();
    fails(run(&compact), &["stats", "complete"]);
    fs::write(&stats, &whole).unwrap();
    let text_of_plan = fs::read_to_string(&plan).unwrap();
    let mut hostile: Value = serde_json::from_str(&text_of_plan).unwrap();
    hostile["layers"][0]["neurons"] = json!([5, 3]);
    fs::write(&plan, hostile.to_string()).unwrap();
    fails(run(&compact), &["plan.json", "layer 0"]);
    hostile["layers"][0]["kv_heads"] = json!([usize::MAX]);
    fs::write(&plan, hostile.to_string()).unwrap();
    fails(run(&compact), &["plan.json", "layer 0"]);
    fs::write(&plan, text_of_plan).unwrap();
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any bytes changed anywhere near the header: an error or a readable file, no panic, no read outside the map.
    #[test]
    fn mutated_headers_never_panic(changes in prop::collection::vec((0usize..3000, any::<u8>()), 1..8), keep in 0usize..8000) {
        let original = fs::read(data("golden/qwen2-bf16/model.safetensors")).unwrap();
        let mut bytes = if keep < 4000 { original[..keep * original.len() / 4000].to_vec() } else { original };
        for (place, value) in changes {
            if let Some(byte) = bytes.get_mut(place) { *byte = value; }
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        fs::copy(data("golden/qwen2-bf16/config.json"), folder.path().join("config.json")).unwrap();
        if let Ok(file) = TensorFile::open(&folder.path().join("model.safetensors")) {
            for name in file.names() {
                let _ = std::hint::black_box(file.bytes(name).unwrap().as_ref().iter().fold(0u8, |a, b| a ^ b));
            }
        }
        if let Ok(model) = Model::open(folder.path()) {
            let _ = model.fingerprint();
            let _ = model.parameters();
        }
    }

    /// Any value under any key of a configuration: an error or an architecture, no panic.
    #[test]
    fn mutated_configurations_never_panic(family in 0usize..4, key in 0usize..24, value in values()) {
        const KEYS: [&str; 24] = [
            "architectures", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "num_hidden_layers",
            "vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias",
            "sliding_window", "use_sliding_window", "layer_types", "max_window_layers", "hidden_act", "flap_gpu", "torch_dtype", "dtype", "quantization_config",
        ];
        let folders = ["llama3-gqa-rope-scaled-tied-bf16", "mistral-sliding-bf16", "qwen2-bf16", "qwen3-bf16"];
        let config = Config::read(&data("golden").join(folders[family])).unwrap();
        let mut values = config.values().clone();
        values.insert(KEYS[key].into(), value);
        let config = Config::new(PathBuf::from("config.json"), values);
        if let Ok(architecture) = Architecture::describe(&config) {
            prop_assert!(architecture.layers.iter().all(|l| l.key_value_heads > 0 && l.heads % l.key_value_heads == 0));
            let _ = architecture.prunable_parameters();
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-10i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,8}".prop_map(Value::from),
        prop_oneof![Just("default"), Just("linear"), Just("llama3"), Just("LlamaForCausalLM")].prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let keys = prop_oneof![
            Just("rope_type"),
            Just("factor"),
            Just("rope_theta"),
            Just("low_freq_factor"),
            Just("layers"),
            Just("num_attention_heads")
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(keys.prop_map(str::to_string), inner, 0..5)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}
