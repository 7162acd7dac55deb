//! What tokenizers do to a text before they merge. llama.cpp puts a space in front of it where it is told to, and does nothing else.

use serde_json::Value as Json;

/// What stands for a space in pieces.
const SPACE: char = '\u{2581}';

/// Fails, with the reason, if it is something by which ordinary text makes other tokens than in llama.cpp; what is left to know of
/// comes back.
pub fn check(tokenizer: &Json, on_pieces: bool) -> Result<Option<String>, String> {
    let mut note = None;
    for step in steps(&tokenizer["normalizer"], "normalizers") {
        match step["type"].as_str().unwrap_or_default() {
            "Prepend" if on_pieces => {}
            "Replace" if on_pieces && step["pattern"]["String"] == " " && step["content"] == SPACE.to_string() => {}
            "NFC" if !on_pieces => {
                note = Some("the tokenizer composes characters first (NFC), which llama.cpp does not: give it composed text".to_string());
            }
            other => return Err(format!("changes a text by `{other}` before it is split, which llama.cpp does not")),
        }
    }
    for step in steps(&tokenizer["pre_tokenizer"], "pretokenizers") {
        if step["type"] == "ByteLevel" && step["add_prefix_space"] == true {
            return Err("puts a space in front of a text, which llama.cpp does not with this kind of vocabulary".into());
        }
        if on_pieces && step["type"] == "Metaspace" && step["split"] != false && merges_words(tokenizer) {
            return Err("splits a text at spaces although it has pieces across them, which llama.cpp does not".into());
        }
    }
    Ok(note)
}

/// Whether there are pieces of more than one word, or of several spaces.
fn merges_words(tokenizer: &Json) -> bool {
    let pieces = tokenizer["model"]["vocab"].as_object().into_iter().flatten();
    pieces.into_iter().any(|(piece, _)| piece.chars().skip(1).any(|character| character == SPACE))
}

/// The steps of a normaliser or pre-tokenizer, those of a sequence one by one.
pub fn steps<'a>(step: &'a Json, list: &str) -> Vec<&'a Json> {
    match step["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => step[list].as_array().into_iter().flatten().flat_map(|step| steps(step, list)).collect(),
        Some(_) => vec![step],
    }
}

/// Whether a text begins with a space that nobody wrote.
pub fn prepends_space(json: &Json) -> bool {
    let normalisers = steps(&json["normalizer"], "normalizers");
    let splitters = steps(&json["pre_tokenizer"], "pretokenizers");
    let metaspace = |step: &&Json| {
        step["type"] == "Metaspace" && step["prepend_scheme"].as_str().map_or(step["add_prefix_space"] != false, |scheme| scheme != "never")
    };
    normalisers.iter().any(|step| step["type"] == "Prepend") || splitters.iter().any(metaspace)
}
