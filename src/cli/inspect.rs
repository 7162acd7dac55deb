//! `flap-gpu inspect`.

use super::args::InspectArguments;
use super::plan::{layers_json, layers_table, removed, removes, share};
use super::terminal::{Terminal, grouped, size, table};
use super::{open_model, plan_beside};
use crate::architecture::Site;
use crate::checkpoint::gguf::{self, GgufFile};
use crate::disk::files;
use crate::plan::Plan;
use crate::statistics;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

pub fn run(args: &InspectArguments, terminal: &Terminal) -> Result<()> {
    let path = args.path.as_path();
    if path.is_dir() || gguf::file_at(path).is_some() {
        inspect_model(path, terminal)
    } else if files::begins_with(path, b"{") {
        inspect_plan(path, terminal)
    } else {
        inspect_statistics(path, terminal)
    }
}

/// Of a plan whose lists are not those that the program made.
const EDITED: &str = "; edited since";

/// How a model was pruned.
struct Pruned {
    report: Value,
    words: String,
}

impl Pruned {
    /// As a GGUF file says it, which holds no plan.
    fn of_file(file: &GgufFile) -> Option<Self> {
        let ratio = file.get("flap_gpu.ratio_reached")?.as_number()?;
        let text = |key: &str| file.get(key).and_then(gguf::Value::as_text);
        let object = |key: &str| text(key).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let program = format!("flap-gpu {}", text("flap_gpu.version").unwrap_or_default());
        let (settings, calibration) = (object("flap_gpu.settings"), object("flap_gpu.calibration"));
        let known = settings.clone().and_then(|settings| serde_json::from_value(settings).ok());
        let done = known.map_or_else(|| format!("{} removed", share(ratio)), |settings| removed(ratio, &settings));
        let words = format!("{done}; {program}");
        let edited = matches!(file.get("flap_gpu.edited"), Some(gguf::Value::Bool(true)));
        let report =
            json!({"settings": settings, "ratio_reached": ratio, "program": program, "calibration": calibration, "edited": edited});
        Some(Self { report, words: format!("{words}{}", if edited { EDITED } else { "" }) })
    }

    /// As a plan says it.
    fn by(plan: &Plan) -> Self {
        let report = json!({"settings": plan.settings, "ratio_reached": plan.ratio_reached, "program": plan.program,
                            "calibration": plan.calibration, "edited": plan.is_edited()});
        Self { report, words: format!("{}; {}", removed(plan.ratio_reached, &plan.settings), made_by(plan)) }
    }
}

fn inspect_model(path: &Path, terminal: &Terminal) -> Result<()> {
    let model = open_model(path, terminal)?;
    let a = &model.architecture;
    let layer = |l: &crate::architecture::LayerShape| {
        json!({"heads": l.heads, "kv_heads": l.key_value_heads, "neurons": l.intermediate_size, "sliding_window": l.sliding_window,
               "o_proj_bias": l.o_bias, "down_proj_bias": l.down_bias})
    };
    let formats: BTreeSet<&str> = model.tensors.entries().iter().map(|entry| entry.storage.name()).collect();
    let context = model.config.optional_size("max_position_embeddings")?;
    let plan = plan_beside(&model, path, terminal);
    let pruned = match &plan {
        Some(plan) => Some(Pruned::by(plan)),
        None => gguf::file_at(path).map(|file| GgufFile::open(&file)).transpose()?.and_then(|file| Pruned::of_file(&file)),
    };
    let report = json!({
        "kind": "model", "family": a.family, "formats": formats, "context": context, "pruned": pruned.as_ref().map(|pruned| &pruned.report), "parameters": model.parameters(), "prunable_parameters": a.prunable_parameters(),
        "weight_bytes": model.tensors.total_bytes(), "hidden_size": a.hidden_size, "head_dim": a.head_dim, "vocabulary_size": a.vocabulary_size,
        "tied_embeddings": a.tied_embeddings, "fingerprint": model.fingerprint(), "layers": a.layers.iter().map(layer).collect::<Vec<_>>(),
    });
    terminal.result(&report, || {
        let rows = a.layers.iter().enumerate().map(|(index, l)| {
            let yes = |flag: bool| if flag { "bias" } else { "" }.to_string();
            vec![
                index.to_string(),
                l.heads.to_string(),
                l.key_value_heads.to_string(),
                l.intermediate_size.to_string(),
                yes(l.o_bias),
                yes(l.down_bias),
            ]
        });
        format!(
            "{} of {} layers, hidden size {}, head size {}, vocabulary {}{}\n{} parameters ({} prunable) in {}, {} on disk\n{}{}",
            a.family,
            a.layers.len(),
            a.hidden_size,
            a.head_dim,
            a.vocabulary_size,
            context.map_or(String::new(), |tokens| format!(", context {}", grouped(tokens as u64))),
            grouped(model.parameters()),
            grouped(a.prunable_parameters()),
            formats.iter().copied().collect::<Vec<_>>().join(", "),
            size(model.tensors.total_bytes()),
            pruned.as_ref().map_or(String::new(), |pruned| format!("pruned: {}\n", pruned.words)),
            table(&["layer", "heads", "KV heads", "neurons", "o_proj", "down_proj"], rows.collect()),
        )
    })
}

fn inspect_plan(path: &Path, terminal: &Terminal) -> Result<()> {
    let plan = Plan::read(path)?;
    let mut report = Pruned::by(&plan).report;
    report["kind"] = "plan".into();
    report["model"] = plan.model.fingerprint.clone().into();
    report["layers"] = layers_json(&plan);
    terminal
        .result(&report, || format!("plan for a {}: {}\n{}\n{}", plan.model.family, removes(&plan), made_by(&plan), layers_table(&plan)))
}

/// The program, the options and the text that made a plan.
fn made_by(plan: &Plan) -> String {
    let text = plan.calibration.as_ref().and_then(|header| header.text_file.as_deref());
    let text = text.map_or(String::new(), |text| format!(", from {text}"));
    let edited = if plan.is_edited() { EDITED } else { "" };
    format!("{} {}{text}{edited}", plan.program, plan.options().join(" "))
}

fn inspect_statistics(path: &Path, terminal: &Terminal) -> Result<()> {
    let statistics = statistics::read(path)?;
    let header = &statistics.header;
    let average = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let layers: Vec<_> = statistics
        .layers
        .iter()
        .map(|layer| Site::BOTH.map(|site| (layer[site].channels(), average(&layer[site].fluctuation()))))
        .collect();
    let layer = |[a, m]: &[(usize, f64); 2]| json!({"attention_channels": a.0, "attention_fluctuation": a.1, "mlp_channels": m.0, "mlp_fluctuation": m.1});
    let report = json!({"kind": "statistics", "header": header, "tokens": header.tokens(), "complete": header.is_complete(),
                        "layers": layers.iter().map(layer).collect::<Vec<_>>()});
    terminal.result(&report, || {
        let rows = layers.iter().enumerate().map(|(index, [a, m])| {
            vec![index.to_string(), a.0.to_string(), format!("{:.4e}", a.1), m.0.to_string(), format!("{:.4e}", m.1)]
        });
        format!(
            "{:?} statistics{} of {} tokens of {}: windows {:?} of {}, {} tokens each, seed {}\n{}",
            header.mode,
            if header.covariances.is_some() { " with covariances" } else { "" },
            grouped(header.tokens()),
            header.text_file.as_deref().unwrap_or("a text"),
            header.windows,
            header.samples,
            header.sequence_length,
            header.seed,
            table(&["layer", "attention channels", "mean fluctuation", "MLP channels", "mean fluctuation"], rows.collect()),
        )
    })
}
