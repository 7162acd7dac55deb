//! Texts in the forms in which corpora are distributed.

use crate::support::demo_model;
use flap_gpu::calibration::TextSource;
use flap_gpu::checkpoint::Tokenizer;
use flate2::Compression;
use flate2::write::GzEncoder;
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
