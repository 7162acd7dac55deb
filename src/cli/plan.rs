//! `flap-gpu plan`.

use super::args::{Common, PlanCommandArguments};
use super::terminal::{Terminal, table};
use super::{open_engine, open_folder, shown, with_engine};
use crate::disk::OutputFile;
use crate::error::Error;
use crate::plan::{Plan, PlannedLayer, Recipe, Settings, nothing_removed};
use crate::search::Structure;
use crate::{pruning, recipe, statistics};
use anyhow::Result;
use serde_json::{Value, json};

pub fn run(args: &PlanCommandArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let model = open_folder(&args.model, terminal)?;
    let options = args.planning.options(&model.architecture, false, Recipe::Flap)?;
    let output = OutputFile::create(&args.output, &[&args.model, &args.statistics], common.force)?;
    let statistics = statistics::read(&args.statistics)?;
    let (plan, notes) = match options.recipe {
        Recipe::Flap => pruning::plan_from_statistics(&model, &statistics, &options)?,
        Recipe::LeastSquares => {
            let engine = open_engine(common)?;
            let plan = with_engine!(engine, e => recipe::plan_from_covariances(e, &model, &statistics, &options, terminal))?;
            (plan, Vec::new())
        }
        other => {
            let message = format!(
                "--recipe {} follows the pruned model's own activations, which no statistics of the dense model hold: use `flap-gpu prune --recipe {0}`",
                other.name()
            );
            return Err(Error::input(message).into());
        }
    };
    notes.iter().for_each(|note| terminal.note(note));
    if args.planning.client.is_some() {
        let choice = args.planning.choice(&model.architecture);
        terminal.note(&format!("for this client: {} (the format is for `compact`)", choice.words()));
    }
    check_reached(&plan, terminal)?;
    output.commit_json(&plan)?;
    let report = json!({"output": shown(&args.output), "ratio_reached": plan.ratio_reached, "layers": layers_json(&plan)});
    terminal.result(&report, || format!("{}\n{}: {}", layers_table(&plan), args.output.display(), removes(&plan)))
}

/// Ratios that count as the same.
pub const ALIKE: f64 = 0.01;

/// Fails if a plan removes nothing, and says so where it misses the ratio that was asked for.
pub fn check_reached(plan: &Plan, terminal: &Terminal) -> crate::error::Result<()> {
    let (reached, asked) = (plan.ratio_reached, plan.settings.ratio);
    if reached <= 0.0 {
        return Err(nothing_removed(asked));
    }
    if (reached - asked).abs() > ALIKE {
        let settings = &plan.settings;
        let bound = settings.uniform || matches!(settings.structure, Some(Structure::UlUm | Structure::UlMm | Structure::AlMm));
        let why = if bound || settings.round_heads.is_some() || settings.round_neurons > 1 {
            "with structures that leave less to choose, or with --round-heads and --round-neurons, the reachable ratios lie far apart"
        } else {
            "whole heads go, with all that share their keys, and of a small model each is a large share"
        };
        terminal.note(&format!("asked for {}, removed {}: {why}", share(asked), share(reached)));
    }
    Ok(())
}

/// What was done by a plan that reached so much.
pub fn removed(ratio: f64, settings: &Settings) -> String {
    format!("{} {}", share(ratio), if settings.mask_only { "zeroed" } else { "removed" })
}

/// What a plan will do.
pub fn removes(plan: &Plan) -> String {
    format!("{} {}", if plan.settings.mask_only { "zeroes" } else { "removes" }, share(plan.ratio_reached))
}

/// A share of the prunable parameters in words.
pub fn share(ratio: f64) -> String {
    format!("{:.2} % of the prunable parameters", 100.0 * ratio)
}

/// Kept and dense sizes of every layer, and what a recipe predicts to be lost.
pub fn layers_json(plan: &Plan) -> Value {
    let layer = |(index, (kept, dense)): (usize, (&PlannedLayer, &[usize; 3]))| {
        let mut layer = json!({
            "heads": kept.heads.len(), "heads_before": dense[0],
            "kv_heads": kept.kv_heads.len(), "kv_heads_before": dense[1],
            "neurons": kept.neurons.len(), "neurons_before": dense[2],
        });
        if let Some([attention, mlp]) = plan.errors.as_ref().and_then(|errors| errors.get(index)) {
            layer["attention_error"] = json!(attention);
            layer["mlp_error"] = json!(mlp);
        }
        layer
    };
    plan.layers.iter().zip(&plan.model.layers).enumerate().map(layer).collect()
}

/// The same as a table.
pub fn layers_table(plan: &Plan) -> String {
    let row = |(index, (kept, dense)): (usize, (&PlannedLayer, &[usize; 3]))| {
        let of = |kept: usize, dense: usize| format!("{kept} of {dense}");
        let mut row =
            vec![index.to_string(), of(kept.heads.len(), dense[0]), of(kept.kv_heads.len(), dense[1]), of(kept.neurons.len(), dense[2])];
        if let Some(errors) = plan.errors.as_ref().and_then(|errors| errors.get(index)) {
            row.extend(errors.map(|error| if error == 0.0 { "0".into() } else { format!("{error:.1e}") }));
        }
        row
    };
    let rows = plan.layers.iter().zip(&plan.model.layers).enumerate().map(row).collect();
    let mut header = vec!["layer", "heads kept", "KV heads kept", "neurons kept"];
    if plan.errors.is_some() {
        header.extend(["attention error", "MLP error"]);
    }
    table(&header, rows)
}
