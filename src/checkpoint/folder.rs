//! The files of a model folder, by their names.

use std::path::Path;

/// Files beside the weights that a model needs to be used.
pub const CARRIED: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Beginnings of names of files that a licence asks to pass on.
pub const LICENCES: [&str; 4] = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];
/// What says how a model was pruned.
pub const PLAN: &str = "plan.json";
/// What says who made a model, and how it is used.
pub const CARD: &str = "README.md";
/// The code that gives every layer its sizes.
pub const CODE: &str = "modeling_flap_gpu.py";

/// What else a pruned model's folder is made of.
const OTHERS: [&str; 6] = [PLAN, CARD, CODE, "config.json", "model.safetensors", "model.safetensors.index.json"];
/// How the names of its GGUF files end: others are made of them by other programs.
const GGUF_ENDS: [&str; 4] = ["-F32.gguf", "-F16.gguf", "-BF16.gguf", "-Q8_0.gguf"];
/// What desktops leave in the folders that they show.
const LITTER: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// What lies in a folder that a pruned model is not made of.
#[must_use]
pub fn foreign(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let own = |name: &str| {
        let shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        let weights = shard || GGUF_ENDS.iter().any(|end| name.ends_with(end));
        let named = CARRIED.iter().chain(&OTHERS).chain(&LITTER).any(|known| *known == name);
        weights || named || LICENCES.iter().any(|begin| name.starts_with(begin))
    };
    let names = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().is_dir()));
    names.filter(|(name, is_folder)| *is_folder || !own(name)).map(|(name, _)| name).min()
}
