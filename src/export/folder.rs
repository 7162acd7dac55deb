//! The files of a model folder, by their names.

use crate::checkpoint::gguf::STORAGES;
use crate::disk::{OutputFolder, files};
use crate::error::{Error, Result};
use crate::plan::Plan;
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
/// What says how a model was pruned.
pub const PLAN: &str = "plan.json";
/// What says who made a model, and how it is used.
pub const CARD: &str = "README.md";
/// The code that gives every layer its sizes.
pub const CODE: &str = "modeling_flap_gpu.py";

/// What else a pruned model's folder is made of.
const OTHERS: [&str; 5] = [PLAN, CARD, CODE, "config.json", "model.safetensors.index.json"];
/// What desktops leave in the folders that they show.
const LITTER: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// The file of weights number `number`, from 1 on, of so many.
#[must_use]
pub fn weights_file(number: usize, count: usize) -> String {
    if count == 1 { "model.safetensors".into() } else { format!("model-{number:05}-of-{count:05}.safetensors") }
}

/// The GGUF file of a model whose matrices are stored so.
#[must_use]
pub fn gguf_file(model: &str, storage: &str) -> String {
    format!("{model}-{storage}.gguf")
}

/// Starts the folder of a pruned model, made from these inputs. With `force`, an earlier one, with nothing else in it, is replaced.
pub fn create(output: &Path, inputs: &[&Path], force: bool) -> Result<OutputFolder> {
    OutputFolder::create(output, inputs, force.then_some(check_replaceable))
}

/// Fails unless there is a pruned model's folder, with nothing else in it.
fn check_replaceable(output: &Path) -> Result<()> {
    // Other projects have a plan.json too.
    if Plan::read(&output.join(PLAN)).is_err() {
        return Err(Error::file(output, "is no pruned model's folder, so --force does not replace it; remove it yourself"));
    }
    match foreign(output)? {
        None => Ok(()),
        Some(name) => {
            Err(Error::file(output, format!("holds {name} too, which --force does not remove; move it away, or choose another --output")))
        }
    }
}

/// What lies in a folder that a pruned model is not made of: GGUF files of other names or storages come from elsewhere.
fn foreign(folder: &Path) -> Result<Option<String>> {
    let place = folder.canonicalize().map_err(Error::io(folder, "cannot open"))?;
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let model = name.strip_suffix(".gguf").unwrap_or(&name);
    let own = |name: &String| {
        let named = CARRIED.iter().chain(&OTHERS).chain(&LITTER).any(|known| known == name);
        let gguf = STORAGES.iter().any(|(_, storage)| *name == gguf_file(model, storage.name()));
        named || gguf || is_weights_file(name) || is_licence(name)
    };
    Ok(files::names(folder)?.into_iter().filter(|name| !own(name) || folder.join(name).is_dir()).min())
}

/// Whether a file is one that a licence asks to pass on, by its name.
#[must_use]
pub fn is_licence(name: &str) -> bool {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "txt"));
    let begins = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"].iter().any(|begin| stem.starts_with(begin));
    begins && ["txt", "md", "rst", "html", "pdf"].contains(&extension)
}

fn is_weights_file(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors")?.split_once("-of-"));
    let numbers = numbers.and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
    let (number, count) = numbers.unwrap_or((1, 1));
    name == weights_file(number, count)
}
