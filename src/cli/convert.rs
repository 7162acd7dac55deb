//! `flap-gpu convert`.

use super::args::{Common, ConvertArguments};
use super::terminal::{Terminal, size};
use super::{open_folder, plan_beside, shown};
use crate::compaction::CompactModel;
use crate::disk::{OutputFile, files};
use crate::export::{self, gguf};
use anyhow::Result;
use serde_json::json;

pub fn run(args: &ConvertArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let model = open_folder(&args.model, terminal)?;
    let output = OutputFile::create(&args.output, &[&args.model], common.force)?;
    let name = export::name_of(&args.model);
    let plan = plan_beside(&model, &args.model, terminal);
    let source = gguf::Source { model: &model, name: &name, plan: plan.as_ref() };
    let notes = gguf::write(&source, &CompactModel::whole(&model), args.gguf_type, &output.path(), terminal)?;
    let bytes = files::size(&output.path())?;
    output.commit()?;
    notes.iter().for_each(|note| terminal.note(note));
    let report = json!({"output": shown(&args.output), "parameters": model.parameters(), "bytes": bytes, "type": args.gguf_type.name()});
    terminal.result(&report, || format!("{}: {}, {}", args.output.display(), args.gguf_type.name(), size(bytes)))
}
