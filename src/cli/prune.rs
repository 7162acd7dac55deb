//! `flap-gpu prune`: calibrate, plan and compact in one process.

use super::args::{Common, PruneArguments};
use super::calibrate::{DEFAULT_SAMPLES, SAVE_INTERVAL, draw, timing};
use super::plan::{ALIKE, check_reached, layers_table};
use super::terminal::Terminal;
use super::{compact, eval, open_engine, open_folder, resumable, with_engine};
use crate::calibration::{Calibration, TextSource};
use crate::compaction::Changes;
use crate::disk::files;
use crate::engine::Engine;
use crate::error::Error;
use crate::evaluation::{Guard, Guarded, perplexity};
use crate::export::{self, Choice, ExportOptions, Format, Measured, folder, gguf, name_of};
use crate::interrupt;
use crate::model::Model;
use crate::pass::PassOptions;
use crate::plan::{Compensation, Method, Plan, PlanOptions, Recipe};
use crate::pruning;
use crate::recipe;
use crate::resume::ResumeState;
use crate::statistics::Statistics;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Windows the authors use for wanda-sp.
const WANDA_SAMPLES: usize = 128;

/// A plan and what it was made from.
struct Planned {
    plan: Plan,
    notes: Vec<String>,
    changes: Changes,
    /// Of a recipe beyond FLAP: what FLAP would have gone by, and the windows to compare on.
    guarded: Option<(Statistics, Vec<u32>)>,
    /// The report of the calibration, where there was one.
    calibration: Value,
}

pub fn run(args: &PruneArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let resume = ResumeState::beside(&args.output, SAVE_INTERVAL, common.force);
    resumable(&resume, terminal, || prune(args, common, &resume, terminal))
}

fn prune(args: &PruneArguments, common: &Common, resume: &ResumeState, terminal: &Terminal) -> Result<()> {
    let model = open_folder(&args.model, terminal)?;
    let mut options = args.planning.options(&model.architecture, args.calibration.compat, Recipe::Sequential)?;
    options.token_weights = args.calibration.token_weights;
    if options.recipe == Recipe::Flap && !options.token_weights.is_equal() {
        return Err(Error::input("--token-weights belongs to the recipes beyond flap; leave it out or give another --recipe").into());
    }
    if options.method == Method::WandaSp && (options.round_neurons > 1 || options.round_heads > 1 || options.uniform.is_some()) {
        return Err(Error::input(
            "wanda-sp prunes the same share of every layer and does not round; leave --round-neurons, --round-heads, --uniform and a --for that chooses them out",
        )
        .into());
    }
    if options.method == Method::MagnitudeSp && (args.calibration.calibration.is_some() || args.calibration.samples.is_some()) {
        terminal.note("magnitude-sp goes by the weights alone: the calibration text is not used, nor are options about it");
    }
    if let (None, None, Some(option)) = (args.planning.recipe, args.planning.method, args.planning.option_of_flap(args.calibration.compat))
    {
        terminal.note(&format!("{option} belongs to the recipe flap, which is taken"));
    }
    let choice = args.planning.choice(&model.architecture);
    let export = args.export.options(&args.output, choice.format)?;
    if args.planning.client.is_some() {
        // A recipe that gives biases is not taken where none can be loaded.
        let recipe = if choice.compensation == Compensation::None { " --recipe flap" } else { "" };
        terminal.note(&format!("for this client: {}{recipe}", Choice { format: export.formats[0], ..choice }.words()));
    }
    if export.formats.contains(&Format::Gguf) {
        gguf::check(&options.expected(&model.architecture), &model)?;
    }
    if options.method != Method::Flap {
        resume.expect_none()?;
    }
    let test = args.evaluate.as_ref().map(|path| test_windows(args, &model, path, terminal)).transpose()?;
    let output = folder::create(&args.output, &[&args.model], common.force)?;
    let result = result_bytes(&model, &options, &export);
    if let Some(note) = files::shortage(files::parent(output.path()), result, "the result", "make room, or choose another --output") {
        terminal.note(&note);
    }
    let engine = open_engine(common)?;
    let begin = Instant::now();
    let passes = args.calibration.passes();
    let (planned, exported, measured, guard) = with_engine!(engine, e => {
        let planned = plan(e, &model, &options, args, common, resume, terminal)?;
        planned.notes.iter().for_each(|note| terminal.note(note));
        check_reached(&planned.plan, terminal)?;
        let exported = export::export(&model, &planned.plan, &planned.changes, &export, &output, terminal)?;
        let guard = match &planned.guarded {
            None => None,
            Some((statistics, ids)) => {
                let (plan, changes) = (&planned.plan, &planned.changes);
                let window_tokens = args.calibration.sequence_length.get();
                let guarded = Guarded { dense: &model, plan, changes, statistics, options: &options, ids, window_tokens };
                unless_it_fails(guarded.measure(e, passes, terminal), "the result was not compared with plain FLAP", terminal)
            }
        };
        let measured = match &test {
            None => None,
            Some(test) => {
                let measured = measure(e, &model, test, output.path(), passes, terminal);
                unless_it_fails(measured, "the perplexity was not measured", terminal)
            }
        };
        (planned, exported, measured, guard)
    });
    export::write_card(output.path(), &args.model, &export.name, &planned.plan, &exported, measured.as_ref())?;
    output.commit()?;
    // Its files may be mapped: some systems remove none that is.
    drop(planned.changes);
    resume.remove();
    exported.notes.iter().for_each(|note| terminal.note(note));
    interrupt::check().inspect_err(|_| terminal.note(&format!("the model in {} is complete", args.output.display())))?;
    let ratio = planned.plan.ratio_reached;
    let mut report = compact::report(&args.output, &planned.plan, &exported);
    report.insert("calibration".into(), planned.calibration);
    report.insert("device".into(), json!(engine.info().label()));
    if let Some(guard) = &guard {
        let divergence = json!({"recipe": guard.recipe, "flap": guard.flap, "flap_ratio": guard.flap_ratio});
        report.insert("divergence".into(), divergence);
        // Nearer by more than sums of f32 may be wrong by, and not because it removes less.
        if guard.recipe > guard.flap + 1e-4 && guard.flap_ratio > ratio - ALIKE {
            terminal.note(&format!("plain FLAP stays nearer to the dense model here ({}): consider --recipe flap", words(guard, ratio)));
        }
    }
    if let Some(measured) = &measured {
        let on = json!({"text": measured.text, "windows": measured.windows, "sequence_length": measured.window_tokens});
        report.insert("perplexity".into(), json!({"dense": measured.dense, "pruned": measured.pruned, "on": on}));
    }
    report.insert("seconds".into(), json!(begin.elapsed().as_secs_f64()));
    terminal.result(&Value::Object(report), || {
        format!(
            "{}\n{}{}\n{}, {:.1} s on {}",
            layers_table(&planned.plan),
            compact::text(&args.output, &planned.plan, &exported),
            [
                guard.map(|g| format!("\n{}", words(&g, ratio))).unwrap_or_default(),
                measured.map(|m| format!("\nperplexity {:.4}, before: {:.4} ({})", m.pruned, m.dense, m.on())).unwrap_or_default()
            ]
            .concat(),
            planned.plan.settings.words(),
            begin.elapsed().as_secs_f64(),
            engine.info().label()
        )
    })
}

/// What a result takes, about.
fn result_bytes(model: &Model, options: &PlanOptions, export: &ExportOptions) -> u64 {
    let prunable = model.architecture.prunable_parameters() as f64 / model.parameters() as f64;
    let stays = if options.mask_only { 1.0 } else { 1.0 - options.ratio * prunable };
    let dense = |format: &Format| match format {
        Format::Hf => model.tensors.total_bytes(),
        Format::Gguf => export.gguf_type.bytes(model.parameters()),
    };
    (stays * export.formats.iter().map(dense).sum::<u64>() as f64) as u64
}

/// What is measured on a complete model, which neither a failure nor an interrupt spoils.
fn unless_it_fails<T>(measured: crate::error::Result<T>, otherwise: &str, terminal: &Terminal) -> Option<T> {
    measured.inspect_err(|error| terminal.note(&format!("{otherwise}: {error}"))).ok()
}

/// The comparison of a recipe that removes such a share.
fn words(guard: &Guard, ratio: f64) -> String {
    // Rounding may leave a divergence of nothing a little below zero.
    let [recipe, flap] = [guard.recipe, guard.flap].map(|divergence| divergence.max(0.0));
    let apart = (guard.flap_ratio - ratio).abs() > ALIKE;
    let but = if apart { format!(", which removes {:.2} % with these options", 100.0 * guard.flap_ratio) } else { String::new() };
    format!("divergence from the dense model {recipe:.4} nats a token, by plain FLAP {flap:.4}{but}")
}

/// What perplexity is measured on.
struct Test {
    /// The name of the text.
    text: String,
    ids: Vec<u32>,
    /// Tokens of a window.
    length: usize,
}

fn test_windows(args: &PruneArguments, model: &Model, path: &Path, terminal: &Terminal) -> Result<Test> {
    let length = eval::window_length(model, None)?;
    let source = TextSource { path: path.to_owned(), field: args.calibration.text_field.clone() };
    let ids = eval::windows(model, &source, length, args.windows, terminal)?;
    Ok(Test { text: name_of(path), ids, length })
}

/// Perplexity of the dense model and of what was written into `folder`.
fn measure<E: Engine>(
    engine: &E,
    dense: &Model,
    test: &Test,
    folder: &Path,
    passes: PassOptions,
    terminal: &Terminal,
) -> crate::error::Result<Measured> {
    let pruned = Model::open(folder)?;
    // A GGUF file of a model with a sliding window has no longer context than that.
    let length = test.length.min(eval::window_length(&pruned, None)?);
    let ids = &test.ids[..test.ids.len() / length * length];
    let of = |model: &Model| perplexity(engine, model, ids, length, passes, terminal).map(|p| p.perplexity);
    Ok(Measured { dense: of(dense)?, pruned: of(&pruned)?, text: test.text.clone(), windows: ids.len() / length, window_tokens: length })
}

fn plan<E: Engine>(
    engine: &E,
    model: &Model,
    options: &PlanOptions,
    args: &PruneArguments,
    common: &Common,
    resume: &ResumeState,
    terminal: &Terminal,
) -> Result<Planned> {
    if options.method == Method::MagnitudeSp {
        let (plan, notes) = pruning::plan_by_magnitude(engine, model, options, args.calibration.compat, terminal)?;
        return Ok(Planned { plan, notes, changes: Changes::default(), guarded: None, calibration: Value::Null });
    }
    let wanda = options.method == Method::WandaSp;
    let set = draw(model, &args.calibration, if wanda { WANDA_SAMPLES } else { DEFAULT_SAMPLES }, None, common, terminal)?;
    let calibration = Calibration { engine, model, set: &set, pass: args.calibration.passes(), progress: terminal };
    let begin = Instant::now();
    if wanda {
        let kept = pruning::wanda_sp(&calibration, options.ratio)?;
        let mut plan = pruning::plan_from_kept(model, options, &kept, args.calibration.compat);
        plan.calibration = Some(set.measured_on(engine));
        let calibration = timing(&set.header, begin.elapsed().as_secs_f64(), false);
        return Ok(Planned { plan, notes: Vec::new(), changes: Changes::default(), guarded: None, calibration });
    }
    let outcome = recipe::run(&calibration, options, Some(resume))?;
    let calibration = timing(&set.header, outcome.seconds, resume.went_on());
    let beyond_flap = options.recipe != Recipe::Flap;
    if beyond_flap && set.held_out.is_empty() {
        terminal
            .note("the text is too short for a comparison with plain FLAP on other windows than it was fitted to: it flatters the recipe");
    }
    let guarded = beyond_flap.then(|| (outcome.statistics, set.judges().to_vec()));
    Ok(Planned { plan: outcome.plan, notes: outcome.notes, changes: outcome.changes, guarded, calibration })
}
