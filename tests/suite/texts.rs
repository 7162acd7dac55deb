//! Texts in the forms in which corpora are distributed.

use crate::support::{demo_model, shared};
use flap_gpu::calibration::TextSource;
use flap_gpu::checkpoint::Tokenizer;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

fn source(folder: &Path, name: &str, content: &[u8]) -> TextSource {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    TextSource { path, field: "text".into() }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

const LINES: &str = "{\"text\": \"One.\", \"url\": \"a\"}\n\n{\"text\": \"Two.\\n\"}\n";

#[test]
fn documents_are_joined_however_they_are_packed() {
    let folder = tempfile::tempdir().unwrap();
    let joined = "One.\n\nTwo.\n";
    let two_members = [gzip(&LINES.as_bytes()[..31]), gzip(&LINES.as_bytes()[31..])].concat();
    for (name, content) in [
        ("a.jsonl", LINES.as_bytes()),
        ("a.JSONL", LINES.as_bytes()),
        ("a.ndjson", LINES.as_bytes()),
        ("a.json", LINES.as_bytes()),
        ("list.json", br#"[{"text": "One."}, {"text": "Two.\n"}]"#),
        ("strings.json", br#" ["One.", "Two.\n"]"#),
        ("marked.jsonl", format!("\u{feff}{LINES}").as_bytes()),
        ("a.jsonl.gz", &gzip(LINES.as_bytes())),
        ("a.json.gz", &two_members),
        // Packed all the same, whatever it is called.
        ("b.jsonl", &gzip(LINES.as_bytes())),
    ] {
        assert_eq!(source(folder.path(), name, content).read().unwrap(), joined, "{name}");
    }
    // A text is taken as it is.
    for name in ["a.txt", "a", "a.txt.gz"] {
        let content = if name.ends_with("gz") { gzip(LINES.as_bytes()) } else { LINES.as_bytes().to_vec() };
        assert_eq!(source(folder.path(), name, &content).read().unwrap(), LINES, "{name}");
    }
}

/// At the end of a line where there is one, else between two characters.
#[test]
fn a_long_text_is_cut_where_it_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let text = source(folder.path(), "a.txt", "ab\ncd\nef".as_bytes());
    for (most, beginning) in [(8, "ab\ncd\nef"), (7, "ab\ncd\n"), (6, "ab\ncd\n"), (5, "ab\n"), (2, "ab")] {
        assert_eq!(text.read_beginning(most).unwrap(), (beginning.to_string(), most < 8), "{most}");
    }
    let wide = source(folder.path(), "b.txt", "aüü".as_bytes());
    for (most, beginning) in [(5, "aüü"), (4, "aü"), (3, "aü"), (2, "a"), (1, "a")] {
        assert_eq!(wide.read_beginning(most).unwrap().0, beginning, "{most}");
    }
    let list = source(folder.path(), "long.json", "[\"One.\",\n\"Zwölf.\"]".as_bytes());
    for (most, beginning) in [(13, "One.\n\nZwölf."), (9, "One.\n\nZw"), (3, "One")] {
        assert_eq!(list.read_beginning(most).unwrap(), (beginning.to_string(), most < 13), "{most}");
    }
    // No whole document lies within so few bytes.
    let long = source(folder.path(), "long.jsonl", b"{\"text\": \"A document of one line.\"}\n");
    assert_eq!(long.read_beginning(10).unwrap(), ("A document".to_string(), true));
    assert_eq!(long.read_beginning(usize::MAX).unwrap(), ("A document of one line.".to_string(), false));
    // A heading before a document that goes on and on is not enough.
    let late = source(folder.path(), "late.jsonl", b"\"One.\"\n\"A document of one line.\"\n");
    assert_eq!(late.read_beginning(20).unwrap(), ("One.".to_string(), true));
    assert_eq!(late.read_enough(20).unwrap(), ("One.\n\nA document of one line.".to_string(), false));
    assert_eq!(late.read_enough(10).unwrap(), ("One.".to_string(), true));
    let lines = source(folder.path(), "a.jsonl.gz", &gzip(LINES.as_bytes()));
    assert_eq!(lines.read_beginning(40).unwrap(), ("One.".to_string(), true));
}

#[test]
fn what_is_no_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let packed = gzip(LINES.as_bytes());
    for (name, content, part) in [
        ("a.parquet", &b"PAR1\xff\xfe"[..], "is a Parquet file"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00\xff", "is compressed by zstd"),
        ("a.txt", b"fine\xff", "is not UTF-8 text (byte 4)"),
        ("broken.jsonl.gz", &packed[..packed.len() - 12], "is the file whole?"),
        ("a.jsonl", b"{\"text\": \"One.\"}\n{\"body\": \"Two.\"}", "line 2: has no text field `text`; name the field with --text-field"),
        ("cut.jsonl", b"{\"text\": \"One.\"}\n{\"text\": \"Tw", "line 2: is not JSON (column 12); if the file was cut there, remove"),
        ("list.json", b"[{\"text\": \"One.\"}, 3]", "document 2: has no text field"),
        ("b.json", b"[{\"text\": ", "is not JSON"),
        ("empty.json", b"[]", "holds no text"),
    ] {
        let message = source(folder.path(), name, content).read().unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(name), "{message}");
    }
}

/// Truncation and padding that were saved with a tokenizer are settings of some training.
#[test]
fn a_text_is_tokenised_whole_and_as_it_is() {
    let path = demo_model().join("tokenizer.json");
    let plain = fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&plain).unwrap();
    json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"
    });
    let text = "Once upon a time there was a little fox.";
    let ids = |json: &str| Tokenizer::parse(&path, json).unwrap().encode(text).unwrap();
    assert!(ids(&plain).len() > 4);
    assert_eq!(ids(&json.to_string()), ids(&plain));
}

/// A long text is tokenised part by part, to what the library makes of the whole, by tokenizers of all the kinds that the models have.
#[test]
fn parts_of_a_text_have_the_tokens_of_the_whole() {
    let path = demo_model().join("tokenizer.json");
    let bytes: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        changed.to_string()
    };
    // As LLaMA 3 and Qwen cut words, the latter with composed characters; and white space that no offset says anything of.
    let split = |numbers: &str| {
        let pattern = format!(
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|{numbers}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        );
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
        ]})
    };
    let trims = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let mut tokenizers = vec![
        ("GPT-2's words", bytes.to_string()),
        ("LLaMA 3's words", with(&|t| (t["pre_tokenizer"], t["post_processor"]) = (split("\\p{N}{1,3}"), trims.clone()))),
        ("Qwen's words", with(&|t| (t["pre_tokenizer"], t["normalizer"]) = (split("\\p{N}"), json!({"type": "NFC"})))),
        ("stripped", with(&|t| t["normalizer"] = json!({"type": "Strip", "strip_left": true, "strip_right": true}))),
        ("a space before", with(&|t| t["pre_tokenizer"]["add_prefix_space"] = json!(true))),
    ];
    // SentencePiece's, where a whole text is one word.
    if let Some(model) = shared("models/stories260k") {
        let pieces = fs::read_to_string(model.join("tokenizer.json")).unwrap();
        let mut metaspace: serde_json::Value = serde_json::from_str(&pieces).unwrap();
        metaspace["normalizer"] = serde_json::Value::Null;
        metaspace["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
        tokenizers.extend([("pieces", pieces), ("pieces after a first space", metaspace.to_string())]);
    }
    let page = "The weather wasn't bad: 3.5 \u{b0}C, 1234567 people.\n\n  Two spaces,\ttabs\tand\r\nnew lines; cafe\u{301}, \u{6f22}\u{5b57}, \u{1f600}!\n\
                def f(x):\n    return x**2 # comment\n\n\n\n\u{301}odd \n \n<s>They'll</s>\n<unk>end.   \n";
    let story = include_str!("../../demo/calibration.txt");
    let pieces = (0..200).flat_map(|i| [&page[page.len() / 2 * (i % 2)..], &story[2000 * (i % 60)..][..1500]]);
    let mixed: String = pieces.collect();
    for text in [
        mixed.clone(),
        format!("  \n{mixed}\n\n "),
        mixed.replace('\n', "\n "),
        page.replace('\n', " ").repeat(1000),
        format!("{}\n", "x".repeat(300_000)),
    ] {
        for (name, json) in &tokenizers {
            let whole: tokenizers::Tokenizer = json.parse().unwrap();
            let expected = whole.encode_fast(text.as_str(), true).unwrap();
            let found = Tokenizer::parse(&path, json).unwrap().encode(text.as_str()).unwrap();
            let first = found.iter().zip(expected.get_ids()).position(|(a, b)| a != b);
            assert!(
                found == expected.get_ids(),
                "{name}, {} bytes: {} ids, {} expected, apart from {first:?}",
                text.len(),
                found.len(),
                expected.len()
            );
        }
    }
}
