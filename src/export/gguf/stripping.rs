//! White space around special tokens, which some tokenizers strip. llama.cpp has no key for it: it strips what follows them where the
//! model's name says Phi-3, as Phi-3's tokenizer does, and nowhere else. So the name has to say what the tokenizer does.

use serde_json::Value as Json;

/// What llama.cpp looks for in a name, whatever the case.
const MARKS: [&str; 2] = ["phi-3", "phi3"];
/// Tokens behind which it strips nothing there; it loads no such file without them, and without [`END`], behind which a text rarely goes on.
const KEEPING: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];
const END: &str = "</s>";

/// The name to give to a model whose own tokenizer is `tokenizer` (its `tokenizer.json`), as near to `name` as can be, and what the user
/// should know.
pub fn name_for(name: &str, tokenizer: &Json) -> (String, Option<String>) {
    let added = || tokenizer["added_tokens"].as_array().into_iter().flatten();
    let has = |wanted: &str| added().any(|token| token["content"] == wanted) || !tokenizer["model"]["vocab"][wanted].is_null();
    let strips = |token: &Json, side: &str| token[side] == true;
    let as_phi3 = |token: &Json| {
        let keeps = KEEPING.iter().any(|known| token["content"] == *known);
        token["content"] == END || (strips(token, "rstrip") != keeps && !strips(token, "lstrip"))
    };
    if added().any(|token| strips(token, "rstrip")) && added().all(as_phi3) && KEEPING.iter().chain([&END]).all(|token| has(token)) {
        let marked = MARKS.iter().any(|mark| name.to_lowercase().contains(mark));
        return (if marked { name.to_string() } else { format!("{name} (Phi-3)") }, None);
    }
    let note = added().any(|token| strips(token, "rstrip") || strips(token, "lstrip")).then(|| {
        "the tokenizer strips white space around some special tokens, which llama.cpp does not: leave it out there yourself".to_string()
    });
    (unmarked(name), note)
}

/// The name without what it is taken for Phi-3 by.
fn unmarked(name: &str) -> String {
    let mut name = name.to_string();
    for mark in MARKS {
        // In ASCII, so that places stay what they are.
        while let Some(place) = name.to_ascii_lowercase().find(mark) {
            name.replace_range(place + 3..place + mark.len() - 1, " ");
        }
    }
    name
}
