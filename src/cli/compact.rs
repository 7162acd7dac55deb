//! `flap-gpu compact`.

use super::args::{Common, CompactArguments};
use super::plan::{layers_json, removed};
use super::terminal::{Terminal, grouped, size};
use super::{open_engine, open_folder, shown, with_engine};
use crate::compaction::Changes;
use crate::error::Error;
use crate::export::{self, Exported, Format, folder};
use crate::plan::{Compensation, Plan, Recipe};
use crate::{compensation, pruning, recipe, statistics};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

pub fn run(args: &CompactArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let model = open_folder(&args.model, terminal)?;
    let options = args.export.options(&args.output, Format::Hf)?;
    let inputs: Vec<&Path> = [&args.model, &args.plan].into_iter().chain(&args.statistics).map(AsRef::as_ref).collect();
    let output = folder::create(&args.output, &inputs, common.force)?;
    let plan = Plan::read(&args.plan)?;
    let place = || args.plan.display().to_string();
    plan.check(&model.architecture, &model.fingerprint()).with_context(place)?;
    if matches!(plan.settings.recipe, Recipe::Sequential | Recipe::Search) {
        let name = plan.settings.recipe.name();
        return Err(Error::input(format!("the weights of --recipe {name} are made along with its plan: use `flap-gpu prune`")))
            .with_context(place);
    }
    let statistics = args.statistics.as_deref().map(statistics::read).transpose()?;
    if let Some(statistics) = &statistics {
        pruning::check_statistics(&model, statistics)?;
        // FLAP's moments are the same with covariances and without.
        let with_covariances = plan.settings.recipe != Recipe::Flap;
        let difference = plan.calibration.as_ref().and_then(|planned| planned.difference(&statistics.header, with_covariances));
        if let Some(what) = difference {
            let message = format!("the plan was made from other statistics, which differ in {what}: give those, or plan anew");
            return Err(Error::input(message)).with_context(place);
        }
    }
    let changes = if plan.settings.compensation == Compensation::None {
        // Nothing is to be computed: no device is opened.
        Changes::default()
    } else {
        let engine = open_engine(common)?;
        with_engine!(engine, e => if plan.settings.recipe == Recipe::Flap {
            compensation::biases(e, &model, statistics.as_ref(), &plan, terminal)?.into()
        } else {
            recipe::changes_from_covariances(e, &model, statistics.as_ref(), &plan, terminal)?
        })
    };
    let exported = export::export(&model, &plan, &changes, &options, &output, terminal)?;
    export::write_card(output.path(), &args.model, &options.name, &plan, &exported, None)?;
    output.commit()?;
    exported.notes.iter().for_each(|note| terminal.note(note));
    terminal.result(&Value::Object(report(&args.output, &plan, &exported)), || text(&args.output, &plan, &exported))
}

/// The fields that `prune` and `compact` share.
pub fn report(output: &Path, plan: &Plan, exported: &Exported) -> serde_json::Map<String, Value> {
    let report = json!({
        "output": shown(output),
        "recipe": plan.settings.recipe,
        "settings": plan.settings,
        "weight_bytes": exported.weight_bytes,
        "parameters_before": exported.parameters_before,
        "parameters_after": exported.parameters_after,
        "ratio_reached": plan.ratio_reached,
        "gguf": exported.gguf_files.iter().map(|file| shown(&output.join(file))).collect::<Vec<_>>(),
        "layers": layers_json(plan),
    });
    match report {
        Value::Object(fields) => fields,
        _ => unreachable!("an object was written"),
    }
}

/// The same in words.
pub fn text(output: &Path, plan: &Plan, exported: &Exported) -> String {
    let summary = format!(
        "{}: {} parameters (before: {}), {}; {}",
        output.display(),
        grouped(exported.parameters_after),
        grouped(exported.parameters_before),
        size(exported.weight_bytes),
        removed(plan.ratio_reached, &plan.settings),
    );
    let files = exported.gguf_files.iter().map(|file| output.join(file).display().to_string());
    std::iter::once(summary).chain(files).collect::<Vec<_>>().join("\n")
}
