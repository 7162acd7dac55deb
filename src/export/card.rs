//! The model card: what the model is, where it comes from, how it was made and how it is loaded.

use super::{Exported, Measured, Origin};
use crate::disk::files;
use crate::error::Result;
use crate::export::folder::{CARD, CODE};
use crate::plan::{Method, Plan, Recipe};
use std::fmt::Write;
use std::path::Path;

/// Writes `README.md` of a pruned model's folder, whose other files are there already.
pub fn write_card(folder: &Path, source: &Path, name: &str, plan: &Plan, exported: &Exported, measured: Option<&Measured>) -> Result<()> {
    let origin = Origin::of(source);
    let mut card = String::from("---\n");
    for (key, value) in &origin.licence {
        let _ = writeln!(card, "{key}: {value}");
    }
    let _ = write!(card, "tags:\n- pruned\n- flap\n---\n\n# {name}\n\n");
    let method = match (plan.settings.recipe, plan.settings.method) {
        (Recipe::LeastSquares, _) => {
            "flap-gpu's recipe least-squares (units by what the rest can make up for, allocation by error curves, least-squares weights)"
        }
        (Recipe::Sequential, _) => {
            "flap-gpu's recipe sequential (units by what the rest can make up for, allocation by error curves, every layer fitted on what \
             reaches it in the pruned model)"
        }
        (Recipe::Search, _) => {
            "flap-gpu's recipe search (units by what the rest can make up for, allocation by the measured divergence of variants, every \
             layer fitted on what reaches it in the pruned model)"
        }
        (Recipe::Flap, Method::Flap) => "FLAP (Fluctuation-based Adaptive Structured Pruning, AAAI 2024, arXiv 2312.11983)",
        (Recipe::Flap, Method::WandaSp) => "Wanda's score on whole heads and neurons (wanda-sp)",
        (Recipe::Flap, Method::MagnitudeSp) => "the magnitude of whole heads and neurons (magnitude-sp)",
    };
    let _ = writeln!(
        card,
        "{} with {:.2} % of its prunable parameters (attention and MLP matrices) {} by {method}, without retraining: {} parameters \
         instead of {}.\n",
        origin.name,
        100.0 * plan.ratio_reached,
        if plan.settings.mask_only { "zeroed" } else { "removed" },
        exported.parameters_after,
        exported.parameters_before,
    );
    making(&mut card, &origin.name, plan, &exported.options);
    if let Some(measured) = measured {
        let _ = writeln!(card, "| | perplexity ({}) |\n|---|---|", measured.on());
        let _ = writeln!(card, "| {} | {:.4} |\n| this model | {:.4} |\n", origin.name, measured.dense, measured.pruned);
    }
    loading(&mut card, folder, exported);
    files::write(&folder.join(CARD), card)
}

/// How it was made, and what makes it again.
fn making(card: &mut String, source: &str, plan: &Plan, format: &[String]) {
    let text = plan.calibration.as_ref().map(|header| header.text_file.as_deref().unwrap_or("TEXT"));
    let options = plan.options();
    let mut command = vec!["flap-gpu"];
    if plan.is_edited() {
        let _ = writeln!(card, "Made with {} by a plan that was edited, `plan.json`:\n", plan.program);
        command.extend(["compact", source, "--plan", "plan.json", "--output", "DIR"]);
        command.extend(text.iter().flat_map(|_| ["--statistics", "STATS"]));
    } else {
        let _ = writeln!(card, "Made with {}:\n", plan.program);
        command.extend(["prune", source, "--output", "DIR"]);
        command.extend(text.iter().flat_map(|text| ["--calibration", text]));
        command.extend(options.iter().map(String::as_str));
    }
    command.extend(format.iter().map(String::as_str));
    let _ = writeln!(card, "```\n{}\n```\n", command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
    let _ = write!(card, "The model it was made from has the fingerprint `{}`", plan.model.fingerprint);
    if let Some(header) = &plan.calibration {
        let _ = write!(card, ", the tokens of the text `{}`; it was measured on {}", header.text, header.devices.join(" and "));
    }
    let _ = writeln!(card, ". `plan.json` says which heads and neurons stayed.\n");
}

/// A word as a shell takes it; names may hold anything.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn loading(card: &mut String, folder: &Path, exported: &Exported) {
    let _ = writeln!(card, "## Loading\n");
    if folder.join("config.json").exists() {
        let trust = if folder.join(CODE).exists() { ", trust_remote_code=True" } else { "" };
        let _ = writeln!(
            card,
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             model = AutoModelForCausalLM.from_pretrained(\"this folder\"{trust})\n\
             tokenizer = AutoTokenizer.from_pretrained(\"this folder\"{trust})\n```\n"
        );
        if !trust.is_empty() {
            let _ = writeln!(
                card,
                "`trust_remote_code` is needed because layers differ in ways that no class of transformers has; `{CODE}` gives every \
                 layer its sizes and leaves everything else to the library.\n"
            );
        }
    }
    for file in &exported.gguf_files {
        let _ = writeln!(card, "```\nllama-cli -m {} -p \"Once upon a time\"\n```\n", quoted(file));
    }
}
