//! `flap-gpu prune`: calibrate, plan and compact in one process.

use super::args::{Common, PruneArguments};
use super::calibrate::{DEFAULT_SAMPLES, draw, timing};
use super::plan::layers_table;
use super::terminal::Terminal;
use super::{compact, open_engine, with_engine};
use crate::calibration;
use crate::checkpoint::OutputFolder;
use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use crate::plan::{Method, Plan};
use crate::pruning::{self, PlanOptions};
use crate::statistics::Statistics;
use crate::{compaction, compensation};
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
    let options = args.planning.options()?;
    let model = Model::open(&args.model)?;
    if options.method == Method::WandaSp && options.round_neurons > 1 {
        return Err(Error::input("wanda-sp prunes the same share of every layer and does not round; leave --round-neurons out").into());
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
    let compacted = compaction::compact(&model, &planned.plan, &biases, output, terminal)?;
    let mut report = compact::report(&args.output, &planned.plan, compacted);
    report.insert("calibration".into(), planned.calibration);
    report.insert("device".into(), json!(engine.info().label()));
    report.insert("seconds".into(), json!(begin.elapsed().as_secs_f64()));
    terminal.result(&Value::Object(report), || {
        format!(
            "{}\n{}\n{:.1} s on {}",
            layers_table(&planned.plan),
            compact::text(&args.output, &planned.plan, compacted),
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
