//! Damaged model folders.

use super::{Folder, Q_PROJ, fails, file_bytes, text_of};
use crate::support::{data, noise, run, run_json};
use flap_gpu::architecture::ROPE_FACTORS;
use flap_gpu::checkpoint::gguf::GgufFile;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, SystemTime};

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
fn a_tied_model_with_another_head() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data("golden/llama-mha-f16").join(file), folder.path().join(file)).unwrap();
    }
    let inspect = || run(&["inspect", text_of(folder.path())]);
    let untied = run_json(&["inspect", text_of(folder.path())])["parameters"].as_u64().unwrap();
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["tie_word_embeddings"] = json!(true);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fails(inspect(), &["lm_head.weight", "tie_word_embeddings"]);
    // The same numbers once more are no parameters.
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    let place = |name: &str| [0, 1].map(|i| data + header[name]["data_offsets"][i].as_u64().unwrap() as usize);
    let ([from, to], [head, _]) = (place("model.embed_tokens.weight"), place("lm_head.weight"));
    bytes.copy_within(from..to, head);
    fs::write(&weights, bytes).unwrap();
    let counted = run_json(&["inspect", text_of(folder.path())])["parameters"].as_u64().unwrap();
    assert_eq!(counted + (to - from) as u64 / 2, untied);
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
    folder.edit(|header, _| {
        let norm = &mut header["model.norm.weight"]["shape"];
        *norm = json!([1, norm[0]]);
    });
    folder.prune_fails(&[], &["model.norm.weight", "shape [1, 96]", "asks for [96]"]);
    let folder = Folder::new();
    folder.set_config("architectures", json!(["GPT2LMHeadModel"]));
    folder.prune_fails(&[], &["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"]);
    folder.set_config("architectures", json!(["LlamaForCausalLM"]));
    folder.set_config("hidden_act", json!("gelu"));
    folder.prune_fails(&[], &["gelu", "silu"]);
    folder.set_config("hidden_act", json!("silu"));
    folder.set_config("rope_parameters", json!({"rope_type": "dynamic", "rope_theta": 10000.0}));
    folder.prune_fails(&[], &["dynamic", "llama3"]);
}

#[test]
fn numbers_that_are_not_finite() {
    let folder = Folder::new();
    folder.poison(Q_PROJ, &[f32::NAN]);
    folder.prune_fails(&[], &[Q_PROJ, "NaN"]);
    let folder = Folder::new();
    folder.poison("model.embed_tokens.weight", &vec![f32::INFINITY; 512 * 96]);
    folder.prune_fails(&[], &["model.embed_tokens.weight", "infinity"]);
    // No window need meet them: found when they are copied.
    for (name, count) in [("model.norm.weight", 1), ("model.embed_tokens.weight", 1)] {
        let folder = Folder::new();
        folder.poison(name, &vec![f32::NAN; count]);
        folder.prune_fails(&["--recipe", "flap"], &[name, "NaN"]);
    }
    // Units are chosen by other matrices; this one is only written.
    let folder = Folder::new();
    folder.poison("model.layers.1.mlp.gate_proj.weight", &[f32::NAN]);
    folder.prune_fails(&["--method", "magnitude-sp", "-q"], &["model.layers.1.mlp.gate_proj.weight", "NaN"]);
    // Finite weights whose product overflows f32 in layer 2.
    let folder = Folder::new();
    folder.poison("model.layers.2.mlp.up_proj.weight", &noise(1, 256 * 96).iter().map(|n| n * 3e38).collect::<Vec<_>>());
    folder.prune_fails(&[], &["layer 2", "NaN or infinity"]);
}

/// An archive may give files any time.
#[test]
fn files_from_before_1970() {
    let folder = Folder::new();
    let weights = fs::File::options().write(true).open(folder.weights()).unwrap();
    weights.set_modified(SystemTime::UNIX_EPOCH - Duration::from_secs(72_000)).unwrap();
    let (code, _, stderr) = folder.prune(&["--recipe", "flap"]);
    assert_eq!(code, 0, "{stderr}");
}

/// What adds the same to every token is made up for by a bias: it goes first.
#[test]
fn a_site_that_never_varies_goes_first() {
    let folder = Folder::new();
    folder.poison("model.layers.1.self_attn.v_proj.weight", &vec![0.0; 96 * 96]);
    folder.poison("model.layers.2.mlp.up_proj.weight", &vec![0.0; 256 * 96]);
    let (code, report, stderr) = folder.prune(&["--json", "--ratio", "0.4"]);
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let layers = report["layers"].as_array().unwrap();
    // One unit stays everywhere; of the neurons, what was taken too much is given back.
    let (heads, neurons) = (layers[1]["kv_heads"].as_u64().unwrap(), layers[2]["neurons"].as_u64().unwrap());
    assert!(heads == 1 && neurons < 10, "{report}");
    assert!(layers[0]["kv_heads"].as_u64() > Some(1) && layers[1]["neurons"].as_u64() > Some(100), "{report}");
}

/// Tensors of any rank that no layer knows are copied, and looked through to their end.
#[test]
fn tensors_of_other_ranks() {
    let numbers = |last: f32| [vec![1.0; 23], vec![last]].concat();
    for (shape, values, finite) in [
        (json!([]), vec![1.0], true),
        (json!([]), vec![f32::NAN], false),
        (json!([2, 3, 4]), numbers(1.0), true),
        (json!([2, 3, 4]), numbers(f32::INFINITY), false),
    ] {
        let folder = Folder::new();
        folder.edit(|header, content| {
            let start = content.len();
            content.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            header["extra"] = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, content.len()]});
        });
        if finite {
            let (code, _, stderr) = folder.prune(&["--recipe", "flap"]);
            assert_eq!(code, 0, "{shape}: {stderr}");
            assert!(stderr.contains("not computed with: 1, such as extra"), "{stderr}");
        } else {
            folder.prune_fails(&["--recipe", "flap", "-q"], &["extra", "NaN"]);
        }
    }
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

/// Sets the number behind a name that stands in a GGUF file's header once, and so many bytes.
fn set_number(bytes: &mut [u8], name: &str, skipped: usize, number: &[u8]) {
    let place = bytes.windows(name.len()).position(|part| part == name.as_bytes()).expect("the name is there") + name.len() + skipped;
    bytes[place..place + number.len()].copy_from_slice(number);
}

#[test]
fn gguf_files_that_lie() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).to_str().unwrap().to_string();
    let (model, whole, damaged) = (path("model"), path("whole.gguf"), path("damaged.gguf"));
    assert_eq!(run(&["convert", &model, "--output", &whole]).0, 0);
    let bytes = fs::read(&whole).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>), parts: &[&str]| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(&damaged, bytes).unwrap();
        fails(run(&["inspect", &damaged]), &[&["damaged.gguf"], parts].concat());
    };
    // Behind a vector's name: its rank, length and kind.
    let norm = "blk.0.ffn_norm.weight";
    for offset in [0u64, 2, 1 << 40] {
        refused(&|bytes| set_number(bytes, norm, 16, &offset.to_le_bytes()), &[norm, "does not begin"]);
    }
    refused(&|bytes| set_number(bytes, norm, 4, &0u64.to_le_bytes()), &[norm, "is empty"]);
    // Another kind, so that it would run into what follows.
    refused(&|bytes| set_number(bytes, norm, 12, &1u32.to_le_bytes()), &["does not begin"]);
    for (key, kind) in [("llama.rope.dimension_count", 4), ("llama.attention.value_length", 4), ("llama.vocab_size", 4)] {
        refused(&|bytes| set_number(bytes, key, kind, &7u32.to_le_bytes()), &[key]);
    }
    // A key as long that asks for another model.
    let (known, scale) = ("general.file_type", "llama.logit_scale");
    let rename = |bytes: &mut Vec<u8>| {
        set_number(bytes, known, 4, &2u32.to_le_bytes());
        let place = bytes.windows(known.len()).position(|part| part == known.as_bytes()).expect("every file has the key");
        bytes[place..place + scale.len()].copy_from_slice(scale.as_bytes());
    };
    refused(&rename, &[scale, "not supported"]);
}

/// Divisors of the rotary frequencies, one for each pair of a head's channels.
#[test]
fn rotary_factors_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scaled.gguf");
    let model = data("golden/llama3-gqa-rope-scaled-tied-bf16");
    assert_eq!(run(&["convert", text_of(&model), "--output", text_of(&path)]).0, 0);
    let bytes = fs::read(&path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let factors = file.tensors.iter().find(|tensor| tensor.name == ROPE_FACTORS).unwrap();
    let place = bytes.windows(factors.bytes.as_ref().len()).position(|part| part == factors.bytes.as_ref()).unwrap();
    for wrong in [0.0f32, -1.0, f32::NAN, f32::INFINITY] {
        let mut bytes = bytes.clone();
        bytes[place..place + 4].copy_from_slice(&wrong.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        fails(run(&["inspect", text_of(&path)]), &["scaled.gguf", ROPE_FACTORS, "positive"]);
    }
}

#[test]
fn layer_types_that_are_none() {
    for types in [json!("sliding_attention"), json!(["sliding_attention"]), json!(["x", "x", "x", "x"]), json!([null, 5, 1, 2])] {
        let folder = Folder::new();
        folder.set_config("architectures", json!(["Qwen2ForCausalLM"]));
        folder.set_config("use_sliding_window", json!(true));
        folder.set_config("sliding_window", json!(16));
        folder.set_config("layer_types", types);
        folder.prune_fails(&[], &["config.json", "layer_types", "4 layers"]);
    }
}
