//! Writing the pruned model in the forms that other programs load: a Hugging Face folder, a GGUF file, or both.
//!
//! What it says about how the model was pruned, in the card and in metadata, it reads from the plan.

mod card;
mod client;
pub mod folder;
pub mod gguf;
pub mod hf;
mod origin;

pub use card::write_card;
pub use client::{Choice, Client};
pub use origin::Origin;

use crate::compaction::{Changes, CompactModel};
use crate::disk::{OutputFolder, files};
use crate::error::Result;
use crate::export::folder::{PLAN, gguf_file};
use crate::model::Model;
use crate::plan::{Plan, argument};
use crate::progress::Progress;
use gguf::GgufType;
use std::path::Path;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Format {
    /// A model folder with safetensors, for transformers and its relatives
    Hf,
    /// A GGUF file, for llama.cpp and its relatives
    Gguf,
}

/// What is written into the output folder.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// One or both.
    pub formats: Vec<Format>,
    /// Number format of a GGUF file's matrices.
    pub gguf_type: GgufType,
    /// Name of the model: of the GGUF file, in its metadata and in the model card.
    pub name: String,
}

impl ExportOptions {
    /// A model folder named as the output will be.
    #[must_use]
    pub fn hf(output: &Path) -> Self {
        Self { formats: vec![Format::Hf], gguf_type: GgufType::default(), name: output_name(output) }
    }
}

/// The last part of a path, as a name; of a download cache's `models--OWNER--NAME/snapshots/HASH` the name.
#[must_use]
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let entry = path.parent().filter(|parent| parent.ends_with("snapshots")).and_then(|snapshots| snapshots.parent()?.file_name());
    let cached = entry.and_then(|entry| entry.to_str()?.strip_prefix("models--")?.rsplit_once("--"));
    if let Some((_, name)) = cached {
        return name.to_string();
    }
    path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// The name of a model that is written into the folder `output`.
#[must_use]
pub fn output_name(output: &Path) -> String {
    let name = name_of(output);
    name.strip_suffix(".gguf").map(ToString::to_string).unwrap_or(name)
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Parameters of the dense model.
    pub parameters_before: u64,
    /// Parameters of the pruned model, biases included; of the folder where a folder and a GGUF file were written.
    pub parameters_after: u64,
    /// Bytes of the weight files.
    pub weight_bytes: u64,
    /// Names of the GGUF files in the folder.
    pub gguf_files: Vec<String>,
    /// The options of the command line that give these forms.
    pub options: Vec<String>,
    /// What the user should know about the result.
    pub notes: Vec<String>,
}

/// Perplexities that were measured, for the model card.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Of the dense model.
    pub dense: f64,
    /// Of the pruned model.
    pub pruned: f64,
    /// The name of the text.
    pub text: String,
    /// Windows of it.
    pub windows: usize,
    /// Tokens of a window.
    pub window_tokens: usize,
}

impl Measured {
    /// What they were measured on, in words.
    #[must_use]
    pub fn on(&self) -> String {
        format!("{}, {} windows of {} tokens", self.text, self.windows, self.window_tokens)
    }
}

/// Writes the pruned model into `output`, without committing it.
pub fn export(
    model: &Model,
    plan: &Plan,
    changes: &Changes,
    options: &ExportOptions,
    output: &OutputFolder,
    progress: &dyn Progress,
) -> Result<Exported> {
    let folder = output.path();
    let mut exported = Exported {
        parameters_before: model.parameters(),
        parameters_after: 0,
        weight_bytes: 0,
        gguf_files: Vec::new(),
        options: Vec::new(),
        notes: Vec::new(),
    };
    for format in &options.formats {
        exported.options.extend(["--format".into(), argument(format)]);
    }

    let compact = CompactModel::pruned(model, plan, changes)?;
    exported.parameters_after = compact.parameters();
    if options.formats.contains(&Format::Gguf) {
        let file = gguf_file(&options.name, &options.gguf_type.name());
        let source = gguf::Source { model, name: &options.name, plan: Some(plan) };
        exported.notes.extend(gguf::write(&source, &compact, options.gguf_type, &folder.join(&file), progress)?);
        exported.weight_bytes += files::size(&folder.join(&file))?;
        exported.gguf_files.push(file);
        exported.options.extend(["--gguf-type".into(), argument(&options.gguf_type)]);
    }
    if options.formats.contains(&Format::Hf) {
        let written = hf::write(model, compact, folder, progress)?;
        exported.parameters_after = written.parameters;
        exported.weight_bytes += written.bytes;
        exported.notes.extend(written.note);
    }
    if exported.parameters_after >= exported.parameters_before && !plan.settings.mask_only {
        exported.notes.push("the biases have more parameters than what was removed: give a larger --ratio".into());
    }
    hf::carry_licences(&model.path, folder)?;
    files::write_json(&folder.join(PLAN), plan)?;
    Ok(exported)
}
