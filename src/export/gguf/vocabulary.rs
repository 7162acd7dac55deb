//! The vocabulary as llama.cpp wants it: tokens, merges or scores, and the name of the rule that splits text before merging.
//!
//! A byte-level BPE becomes the kind `gpt2`, a BPE on SentencePiece's pieces with byte fallback the kind `llama`. Everything comes from
//! `tokenizer.json`, which is written into the file as well: whoever reads it with that library needs no other.

use super::normalising::{self, prepends_space, steps};
use super::stripping::name_for;
use crate::checkpoint::Config;
use crate::checkpoint::gguf::{Metadata, Value};
use crate::disk::files;
use crate::error::{Error, Result};
use crate::model::Model;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::path::Path;

/// Kinds of tokens, by llama.cpp's numbers.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// What `ByteLevel` splits by when it is told to.
const GPT2_PATTERN: &str = "gpt-2";
/// Patterns of `tokenizer.json`, whether a token that is a whole word needs no merges, and the name that llama.cpp gives to such a tokenizer.
const SPLITTERS: [(&[&str], bool, &str); 9] = [
    (&[GPT2_PATTERN], false, "gpt-2"),
    (&[r"\p{N}", GPT2_PATTERN], false, "smollm"),
    (&[LLAMA3], true, "llama-bpe"),
    (&[LLAMA3], false, "smaug-bpe"),
    (&[QWEN2], false, "qwen2"),
    (&[QWEN35], false, "qwen35"),
    (&[GPT4O], false, "gpt-4o"),
    (&[TEKKEN], true, "tekken"),
    (&[TEKKEN], false, "tekken"),
];
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The score of a piece that no merge makes.
const UNMERGED: f32 = -1e6;

/// What a file says about a model's vocabulary.
pub struct Keys {
    /// All keys.
    pub metadata: Metadata,
    /// The name of the model that goes with them.
    pub name: String,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// For a model that shall be called `name`.
pub fn keys(model: &Model, name: &str) -> Result<Keys> {
    let path = model.path.join("tokenizer.json");
    if !path.is_file() {
        let note = "the model folder has no tokenizer.json: the GGUF file has no vocabulary and takes token ids only".to_string();
        let metadata = vec![("tokenizer.ggml.model".into(), Value::text("no_vocab"))];
        return Ok(Keys { metadata, name: name.into(), notes: vec![note] });
    }
    let text = files::read_text(&path)?;
    let json: Json = serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is not JSON: {e}")))?;
    let tokenizer = Source { path: &path, json: &json };
    let bpe = &json["model"];
    if bpe["type"].as_str().is_some_and(|kind| kind != "BPE") || !bpe["merges"].is_array() {
        return Err(tokenizer.error("is no BPE tokenizer; a GGUF file of this kind of vocabulary is not supported (write --format hf)"));
    }
    let mut vocabulary = Vocabulary::read(&tokenizer, model.architecture.vocabulary_size)?;
    let on_pieces = bpe["byte_fallback"].as_bool() == Some(true);
    let composing = normalising::check(&json, on_pieces).map_err(|reason| tokenizer.error(format!("{reason}; write --format hf")))?;
    let mut keys = if on_pieces {
        vocabulary.pieces(&tokenizer)?
    } else {
        vec![
            ("model", Value::text("gpt2")),
            ("pre", Value::text(splitter(&tokenizer)?)),
            ("merges", Value::texts(merges(&tokenizer)?.map(|(a, b)| format!("{a} {b}")))),
        ]
    };
    keys.push(("tokens", Value::texts(vocabulary.tokens.clone())));
    keys.push(("token_type", Value::integers(vocabulary.kinds.clone())));
    let settings = model.path.join("tokenizer_config.json");
    let settings: Json = if settings.is_file() { files::read_json(&settings)? } else { Json::Null };
    keys.extend(special(model, &vocabulary, &settings)?);
    let mut keys: Metadata = keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    if let Some(template) = chat_template(&model.path, &settings)? {
        keys.push(("tokenizer.chat_template".into(), Value::Text(template)));
    }
    keys.push(("tokenizer.huggingface.json".into(), Value::Text(text)));
    let (name, note) = name_for(name, &json);
    Ok(Keys { metadata: keys, name, notes: note.into_iter().chain(composing).collect() })
}

/// A parsed `tokenizer.json`.
struct Source<'a> {
    path: &'a Path,
    json: &'a Json,
}

impl Source<'_> {
    fn error(&self, message: impl Into<String>) -> Error {
        Error::file(self.path, message)
    }
}

/// Texts and kinds of all tokens by their ids.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    ids: HashMap<String, usize>,
}

impl Vocabulary {
    fn read(tokenizer: &Source, size: usize) -> Result<Self> {
        let wrong = || tokenizer.error("has no vocabulary of texts and ids");
        let listed = tokenizer.json["model"]["vocab"].as_object().ok_or_else(wrong)?;
        let mut entries = Vec::new();
        for (token, id) in listed {
            entries.push((token.clone(), id.as_u64().ok_or_else(wrong)? as usize, kind::NORMAL));
        }
        for added in tokenizer.json["added_tokens"].as_array().into_iter().flatten() {
            let (Some(token), Some(id)) = (added["content"].as_str(), added["id"].as_u64()) else { return Err(wrong()) };
            let kind = if added["special"].as_bool() == Some(true) { kind::CONTROL } else { kind::USER_DEFINED };
            entries.push((token.to_string(), id as usize, kind));
        }
        // Rows of the embedding that no token uses still need a text.
        let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![kind::UNUSED; size];
        let mut ids = HashMap::new();
        for (token, id, kind) in entries {
            if id >= size {
                return Err(tokenizer.error(format!("gives `{token}` the id {id}, beyond the model's vocabulary of {size} entries")));
            }
            ids.insert(token.clone(), id);
            (tokens[id], kinds[id]) = (token, kind);
        }
        Ok(Self { tokens, kinds, ids })
    }

    /// The keys of a BPE on SentencePiece's pieces. llama.cpp joins the pair whose piece has the highest score first; the rank of the
    /// merge that makes a piece first is that order.
    fn pieces(&mut self, tokenizer: &Source) -> Result<Vec<(&'static str, Value)>> {
        let mut scores = vec![UNMERGED; self.tokens.len()];
        for (rank, (first, second)) in merges(tokenizer)?.enumerate() {
            if let Some(&id) = self.ids.get(&format!("{first}{second}"))
                && scores[id] == UNMERGED
            {
                scores[id] = -(rank as f32);
            }
        }
        for (token, kind) in self.tokens.iter().zip(&mut self.kinds) {
            if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
                *kind = kind::BYTE;
            }
        }
        let unknown = tokenizer.json["model"]["unk_token"].as_str().and_then(|token| self.ids.get(token));
        if let Some(&id) = unknown {
            self.kinds[id] = kind::UNKNOWN;
        }
        let mut keys = vec![("model", Value::text("llama")), ("scores", Value::numbers(scores))];
        keys.push(("add_space_prefix", Value::Bool(prepends_space(tokenizer.json))));
        Ok(keys)
    }
}

/// The pairs that are merged, the first first.
fn merges<'a>(tokenizer: &'a Source) -> Result<impl Iterator<Item = (&'a str, &'a str)>> {
    let pair = |merge: &'a Json| match merge {
        Json::String(text) => text.split_once(' '),
        Json::Array(pair) => Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    };
    let pairs: Option<Vec<_>> = tokenizer.json["model"]["merges"].as_array().into_iter().flatten().map(pair).collect();
    Ok(pairs.ok_or_else(|| tokenizer.error("lists a merge that is no pair of tokens"))?.into_iter())
}

/// llama.cpp's name of the rule that splits text before merging.
fn splitter(tokenizer: &Source) -> Result<&'static str> {
    let mut patterns = Vec::new();
    for step in steps(&tokenizer.json["pre_tokenizer"], "pretokenizers") {
        match step["type"].as_str().unwrap_or_default() {
            "Split" => patterns.push(step["pattern"]["Regex"].as_str().or(step["pattern"]["String"].as_str()).unwrap_or_default()),
            "Digits" if step["individual_digits"] == true => patterns.push(r"\p{N}"),
            "ByteLevel" if step["use_regex"] != false => patterns.push(GPT2_PATTERN),
            "ByteLevel" => {}
            other => patterns.push(other),
        }
    }
    let whole_words = tokenizer.json["model"]["ignore_merges"] == true;
    let known = SPLITTERS.iter().find(|(known, whole, _)| *known == patterns && *whole == whole_words);
    known.map(|(_, _, name)| *name).ok_or_else(|| {
        tokenizer.error(format!(
            "splits text by a rule that has no name in llama.cpp as far as this program knows ({patterns:?}); write --format hf"
        ))
    })
}

/// Ids of special tokens and whether the tokenizer adds them: what it does says more than what its settings say.
fn special(model: &Model, vocabulary: &Vocabulary, settings: &Json) -> Result<Vec<(&'static str, Value)>> {
    let mut keys = Vec::new();
    let mut ids = HashMap::new();
    for (name, key) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("unk", "unknown_token_id"), ("pad", "padding_token_id")] {
        let named = &settings[format!("{name}_token")];
        let named = named.as_str().or(named["content"].as_str()).and_then(|token| vocabulary.ids.get(token)).copied();
        let id = named.or_else(|| configured(&model.config, &format!("{name}_token_id")));
        if let Some(id) = id.filter(|&id| id < vocabulary.tokens.len()) {
            ids.insert(name, id as u32);
            keys.push((key, Value::U32(id as u32)));
        }
    }
    let tokenizer = model.tokenizer()?;
    let encoded = tokenizer.encode("a")?;
    keys.push(("add_bos_token", Value::Bool(encoded.first().is_some_and(|id| ids.get("bos") == Some(id)))));
    keys.push(("add_eos_token", Value::Bool(encoded.last().is_some_and(|id| ids.get("eos") == Some(id)))));
    Ok(keys)
}

/// An id of `config.json`, the first where there are several.
fn configured(config: &Config, key: &str) -> Option<usize> {
    let value = config.get(key)?;
    value.as_u64().or_else(|| value.get(0)?.as_u64()).map(|id| id as usize)
}

/// The template by which a conversation becomes a text.
fn chat_template(folder: &Path, settings: &Json) -> Result<Option<String>> {
    let own = folder.join("chat_template.jinja");
    if own.is_file() {
        return files::read_text(&own).map(Some);
    }
    let apart = folder.join("chat_template.json");
    let apart = if apart.is_file() { files::read_json(&apart)? } else { Json::Null };
    let template = [&apart, settings].map(|settings| &settings["chat_template"]);
    let template = template.into_iter().find(|template| !template.is_null()).unwrap_or(&Json::Null);
    // Several named templates: the one for conversations without tools.
    let default = template.as_array().and_then(|list| list.iter().find(|t| t["name"] == "default")).map(|t| &t["template"]);
    Ok(default.unwrap_or(template).as_str().map(str::to_owned))
}
