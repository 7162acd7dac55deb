//! The vocabulary of a GGUF file, before another reader.

use super::converted;
use crate::support::{data, demo_model};
use flap_gpu::compaction::CompactModel;
use flap_gpu::export::gguf::{GgufType, Source, write};
use flap_gpu::model::Model;
use flap_gpu::progress::Silent;
use ggus::{GGuf, GGufMetaMapExt};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A tiny model in `folder` with this `tokenizer.json`.
fn with_tokenizer(golden: &str, tokenizer: &Value, folder: &Path) -> Model {
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data("golden").join(golden).join(file), folder.join(file)).unwrap();
    }
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Model::open(folder).unwrap()
}

#[test]
fn the_vocabulary_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::open(&demo_model()).unwrap();
    let (path, notes) = converted(&model, GgufType::F16, folder.path());
    assert!(notes.is_empty(), "{notes:?}");
    let bytes = fs::read(&path).unwrap();
    let file = GGuf::new(&bytes).unwrap();
    let tokens: Vec<String> = file.get_str_arr("tokenizer.ggml.tokens").unwrap().map(|t| t.unwrap().to_string()).collect();
    assert_eq!(tokens.len(), model.architecture.vocabulary_size);
    let distinct: std::collections::HashSet<&String> = tokens.iter().collect();
    assert_eq!(distinct.len(), tokens.len(), "llama.cpp aborts on a token that is there twice");
    assert_eq!(file.get_i32_arr("tokenizer.ggml.token_type").unwrap().count(), tokens.len());
    let tokenizer = fs::read_to_string(demo_model().join("tokenizer.json")).unwrap();
    assert_eq!(file.get_str("tokenizer.huggingface.json").unwrap(), tokenizer);
    // What is read back tokenises text as the folder does.
    let text = "Once upon a time, there was 1 café.\n";
    let again = Model::open(&path).unwrap().tokenizer().unwrap();
    assert_eq!(again.encode(text).unwrap(), model.tokenizer().unwrap().encode(text).unwrap());
}

/// A BPE on pieces: the earlier a merge, the higher the score of what it makes.
#[test]
fn pieces_are_scored_by_their_merges() {
    let folder = tempfile::tempdir().unwrap();
    let model = |pre_tokenizer: Value, byte_fallback: bool| {
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [{"id": 0, "content": "<unk>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
            "normalizer": byte_fallback.then(|| json!({"type": "Prepend", "prepend": "▁"})), "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": byte_fallback,
                      "vocab": {"<unk>": 0, "<0x0A>": 1, "▁": 2, "a": 3, "b": 4, "ab": 5, "▁ab": 6},
                      "merges": [["a", "b"], ["▁", "ab"]]},
        });
        with_tokenizer("qwen2-bf16", &tokenizer, folder.path())
    };
    let (path, _) = converted(&model(Value::Null, true), GgufType::F16, folder.path());
    let bytes = fs::read(&path).unwrap();
    let file = GGuf::new(&bytes).unwrap();
    let scores: Vec<f32> = file.get_f32_arr("tokenizer.ggml.scores").unwrap().map(|s| s.unwrap()).collect();
    assert!(scores[5] > scores[6] && scores[6] > scores[3], "{scores:?}");
    let kinds: Vec<i32> = file.get_i32_arr("tokenizer.ggml.token_type").unwrap().map(|k| k.unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], kinds[2], kinds[7]), (2, 6, 1, 5), "unknown, byte, normal, unused");
    assert!(file.get_bool("tokenizer.ggml.add_space_prefix").unwrap());
    // A rule that has no name there would tokenise differently: refused.
    let model = model(json!({"type": "Whitespace"}), false);
    let target = folder.path().join("other.gguf");
    let refused = write(&Source { model: &model, name: "m", plan: None }, &CompactModel::whole(&model), GgufType::F16, &target, &Silent);
    assert!(refused.unwrap_err().to_string().contains("Whitespace"));
    assert!(!target.exists());
}

/// llama.cpp takes a text as it is: tokenizers that change it first, or split it otherwise, are refused, and Unicode's composed form told of.
#[test]
fn what_changes_a_text_first_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let written = |normalizer: Value, pre_tokenizer: Value, byte_fallback: bool| {
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": byte_fallback,
                      "vocab": {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "▁a▁": 4}, "merges": [["▁", "a"], ["▁a", "▁"]]},
        });
        let model = with_tokenizer("qwen2-bf16", &tokenizer, folder.path());
        let source = Source { model: &model, name: "m", plan: None };
        write(&source, &CompactModel::whole(&model), GgufType::F16, &folder.path().join("m.gguf"), &Silent)
            .map_err(|error| error.to_string())
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let bytes = |space: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true});
    let metaspace = |split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": split});
    let several = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]});
    for (normalizer, pre_tokenizer, byte_fallback, refused) in [
        (Value::Null, bytes(false), false, None),
        (Value::Null, bytes(true), false, Some("space in front")),
        (json!({"type": "Lowercase"}), bytes(false), false, Some("Lowercase")),
        (several, Value::Null, true, None),
        (json!({"type": "NFKC"}), Value::Null, true, Some("NFKC")),
        (Value::Null, metaspace(false), true, None),
        (Value::Null, metaspace(true), true, Some("pieces across")),
    ] {
        match (written(normalizer, pre_tokenizer, byte_fallback), refused) {
            (Ok(notes), None) => assert!(notes.is_empty(), "{notes:?}"),
            (Err(error), Some(part)) => assert!(error.contains(part) && error.contains("--format hf"), "{error}"),
            (found, _) => panic!("{found:?}, and not {refused:?}"),
        }
    }
    let notes = written(json!({"type": "NFC"}), bytes(false), false).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("NFC"), "{notes:?}");
}

/// llama.cpp strips white space behind special tokens where, and only where, a name says Phi-3.
#[test]
fn the_name_says_whether_special_tokens_strip() {
    let folder = tempfile::tempdir().unwrap();
    let special = |id: usize, content: &str, rstrip: bool| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": rstrip, "normalized": false});
    let named = |tokens: &[Value], name: &str| {
        let tokenizer = json!({
            "version": "1.0", "added_tokens": tokens, "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5},
                      "merges": [["a", "b"]]},
        });
        let model = with_tokenizer("phi3-bf16", &tokenizer, folder.path());
        let path = folder.path().join("named.gguf");
        let notes =
            write(&Source { model: &model, name, plan: None }, &CompactModel::whole(&model), GgufType::F16, &path, &Silent).unwrap();
        let bytes = fs::read(&path).unwrap();
        (
            GGuf::new(&bytes).unwrap().get_str("general.name").unwrap().to_string(),
            notes.iter().filter(|note| note.contains("white space")).count(),
        )
    };
    let phi3 = [
        special(0, "<unk>", false),
        special(1, "<s>", false),
        special(2, "</s>", true),
        special(6, "<|endoftext|>", false),
        special(7, "<|user|>", true),
    ];
    assert_eq!(named(&phi3, "small"), ("small (Phi-3)".into(), 0));
    assert_eq!(named(&phi3, "Phi-3-mini-small"), ("Phi-3-mini-small".into(), 0));
    // Without one of the tokens that it looks for, llama.cpp does not load such a file.
    assert_eq!(named(&phi3[..3], "phi3-PHI-3"), ("phi 3-PHI 3".into(), 1));
    let plain = [special(0, "<unk>", false), special(2, "</s>", false)];
    assert_eq!(named(&plain, "my-phi-3"), ("my-phi 3".into(), 0));
}
