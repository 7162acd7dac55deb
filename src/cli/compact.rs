//! `flap-gpu compact`.

use super::args::{Common, CompactArguments};
use super::plan::{layers_json, share};
use super::terminal::{Terminal, grouped, size};
use super::{open_engine, with_engine};
use crate::checkpoint::OutputFolder;
use crate::compaction::{self, Compacted};
use crate::model::Model;
use crate::plan::Plan;
use crate::{compensation, pruning, statistics};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

pub fn run(args: &CompactArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let model = Model::open(&args.model)?;
    let output = OutputFolder::create(&args.output, &args.model, common.force)?;
    let plan = Plan::read(&args.plan)?;
    let place = || args.plan.display().to_string();
    plan.check(&model.architecture, &model.fingerprint()).with_context(place)?;
    let statistics = args.statistics.as_deref().map(statistics::read).transpose()?;
    if let Some(statistics) = &statistics {
        pruning::check_statistics(&model, statistics)?;
    }
    let engine = open_engine(common)?;
    let biases = with_engine!(engine, e => compensation::biases(e, &model, statistics.as_ref(), &plan, terminal))?;
    let compacted = compaction::compact(&model, &plan, &biases, output, terminal)?;
    terminal.result(&Value::Object(report(&args.output, &plan, compacted)), || text(&args.output, &plan, compacted))
}

/// The fields that `prune` and `compact` share.
pub fn report(output: &Path, plan: &Plan, compacted: Compacted) -> serde_json::Map<String, Value> {
    let report = json!({
        "output": output,
        "parameters_before": compacted.parameters_before,
        "parameters_after": compacted.parameters_after,
        "ratio_reached": plan.ratio_reached,
        "layers": layers_json(plan),
    });
    match report {
        Value::Object(fields) => fields,
        _ => unreachable!("an object was written"),
    }
}

/// The same in words.
pub fn text(output: &Path, plan: &Plan, compacted: Compacted) -> String {
    format!(
        "{}: {} parameters, {} (before: {}); {} removed",
        output.display(),
        grouped(compacted.parameters_after),
        size(compacted.weight_bytes),
        grouped(compacted.parameters_before),
        share(plan.ratio_reached),
    )
}
