//! `flap-gpu prune`: calibrate, plan and compact in one process.

use super::args::{Common, PruneArguments};
use super::calibrate::{DEFAULT_SAMPLES, draw, timing};
use super::plan::layers_table;
use super::terminal::Terminal;
use super::{compact, open_engine, with_engine};
use crate::calibration;
use crate::checkpoint::OutputFolder;
use crate::compensation;
use crate::engine::Engine;
use crate::error::Error;
use crate::export::{self, Format, gguf, hf};
use crate::model::Model;
use crate::plan::{Method, Plan};
use crate::pruning::{self, PlanOptions};
use crate::statistics::Statistics;
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Instant;

/// Windows the authors use for wanda-sp.
const WANDA_SAMPLES: usize = 128;

/// A plan and what it was made from.
struct Planned {
    plan: Plan,
    notes: Vec<String>,
    statistics: Option<Statistics>,
    /// The report of the calibration, where there was one.
    calibration: Value,
}

pub fn run(args: &PruneArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let model = Model::open_folder(&args.model)?;
    let options = args.planning.options(&model.architecture)?;
    if options.method == Method::WandaSp && (options.round_neurons > 1 || options.round_heads > 1) {
        return Err(Error::input(
            "wanda-sp prunes the same share of every layer and does not round; leave --round-neurons and --round-heads out",
        )
        .into());
    }
    let choice = args.planning.choice(&model.architecture);
    if let Some(choice) = &choice {
        terminal.note(&format!("for this client: {}", choice.words()));
    }
    let export = args.export.options(&args.output, choice.map_or(Format::Hf, |choice| choice.format));
    if export.formats.contains(&Format::Gguf) {
        gguf::check(&options.expected(&model.architecture))?;
    }
    let output = OutputFolder::create(&args.output, &args.model, common.force)?;
    let engine = open_engine(common)?;
    let begin = Instant::now();
    let (planned, biases) = with_engine!(engine, e => {
        let planned = plan(e, &model, &options, args, common, terminal)?;
        let biases = compensation::biases(e, &model, planned.statistics.as_ref(), &planned.plan, terminal)?;
        (planned, biases)
    });
    planned.notes.iter().for_each(|note| terminal.note(note));
    let exported = export::export(&model, &planned.plan, &biases, &export, &output, terminal)?;
    hf::write_card(output.path(), &args.model, &export.name, &planned.plan, &exported, None)?;
    output.commit()?;
    exported.notes.iter().for_each(|note| terminal.note(note));
    let mut report = compact::report(&args.output, &planned.plan, &exported);
    report.insert("calibration".into(), planned.calibration);
    report.insert("device".into(), json!(engine.info().label()));
    report.insert("seconds".into(), json!(begin.elapsed().as_secs_f64()));
    terminal.result(&Value::Object(report), || {
        format!(
            "{}\n{}\n{:.1} s on {}",
            layers_table(&planned.plan),
            compact::text(&args.output, &planned.plan, &exported),
            begin.elapsed().as_secs_f64(),
            engine.info().label()
        )
    })
}

fn plan<E: Engine>(
    engine: &E,
    model: &Model,
    options: &PlanOptions,
    args: &PruneArguments,
    common: &Common,
    terminal: &Terminal,
) -> Result<Planned> {
    if options.method == Method::MagnitudeSp {
        let (plan, notes) = pruning::plan_by_magnitude(engine, model, options, terminal)?;
        return Ok(Planned { plan, notes, statistics: None, calibration: Value::Null });
    }
    let wanda = options.method == Method::WandaSp;
    let set = draw(model, &args.calibration, if wanda { WANDA_SAMPLES } else { DEFAULT_SAMPLES }, None)?;
    let passes = common.pass_options(args.calibration.batch_tokens);
    let begin = Instant::now();
    if wanda {
        let kept = calibration::wanda_sp(engine, model, &set, options.ratio, passes, terminal)?;
        let plan = pruning::plan_from_kept(model, options, &kept, args.calibration.compat);
        let calibration = timing(&set.header, begin.elapsed().as_secs_f64());
        return Ok(Planned { plan, notes: Vec::new(), statistics: None, calibration });
    }
    let statistics = calibration::calibrate(engine, model, &set, passes, None, terminal)?;
    let calibration = timing(&set.header, begin.elapsed().as_secs_f64());
    let (plan, notes) = pruning::plan_from_statistics(model, &statistics, options)?;
    Ok(Planned { plan, notes, statistics: Some(statistics), calibration })
}
