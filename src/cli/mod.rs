//! The command line: arguments, progress, printing and exit codes. No arithmetic.

mod args;
mod bench;
mod calibrate;
mod compact;
mod convert;
mod demo;
mod devices;
mod eval;
mod forward;
mod inspect;
mod logging;
mod plan;
mod prune;
mod signals;
mod terminal;

use crate::engine::{self, AnyEngine};
use crate::error::Error;
use crate::export::folder::PLAN;
use crate::model::Model;
use crate::plan::Plan;
use crate::resume::ResumeState;
use anyhow::{Context, Result};
use args::{Arguments, Command, Common};
use clap_complete::Shell;
use std::path::Path;
use std::process::ExitCode;
use terminal::Terminal;

/// Threads that no machine is refused: with many more than it can run, work that takes a second was seen to take minutes.
const MANY_THREADS: usize = 128;

/// Runs the body with the engine at its own type.
macro_rules! with_engine {
    ($any:expr, $engine:ident => $body:expr) => {
        match &$any {
            $crate::engine::AnyEngine::Cpu($engine) => $body,
            $crate::engine::AnyEngine::Gpu($engine) => $body,
        }
    };
}
use with_engine;

/// Parses the arguments, runs the command, prints an error as one line, and with `--json` as a document, too. Exit codes: 0 done,
/// 1 failed, 2 a command line that cannot be read.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(error) => {
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                let message = error.to_string();
                print_error(message.strip_prefix("error: ").unwrap_or(&message).trim_end());
            }
            error.exit()
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let closed =
                error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe));
            if closed {
                // The reader of our output has seen enough, as with `| head`.
                return ExitCode::SUCCESS;
            }
            // The error itself matters even under --quiet. Standard error and output may be closed; then nobody is left to tell.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error:#}\n").as_bytes());
            if arguments.common.json {
                print_error(&format!("{error:#}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// The document of a failure. Standard output may be closed; then nobody is left to tell.
fn print_error(message: &str) {
    let _ = Terminal::print(format!("{:#}\n", serde_json::json!({ "error": message })).as_bytes());
}

fn run(arguments: &Arguments) -> Result<()> {
    let common = &arguments.common;
    let terminal = Terminal::new(common);
    logging::start(common, &terminal);
    signals::handle()?;
    if let Some(threads) = common.threads {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if usize::from(threads) > MANY_THREADS.max(cores) {
            return Err(Error::input(format!(
                "--threads {threads}: this machine runs {cores} at a time, and more than {MANY_THREADS} would only wait for each other"
            ))
            .into());
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global().context("cannot start threads")?;
    }
    match &arguments.command {
        Command::Prune(args) => prune::run(args, common, &terminal),
        Command::Calibrate(args) => calibrate::run(args, common, &terminal),
        Command::Merge(args) => calibrate::merge(args, common, &terminal),
        Command::Plan(args) => plan::run(args, common, &terminal),
        Command::Compact(args) => compact::run(args, common, &terminal),
        Command::Convert(args) => convert::run(args, common, &terminal),
        Command::Eval(args) => eval::run(args, common, &terminal),
        Command::Forward(args) => forward::run(args, common, &terminal),
        Command::Inspect(args) => inspect::run(args, &terminal),
        Command::Bench(args) => bench::run(args, common, &terminal),
        Command::Devices => devices::run(&terminal),
        Command::Demo => demo::run(common, &terminal),
        Command::Completions { shell } => {
            let script = completions(*shell);
            terminal.result(&serde_json::json!({"shell": shell.to_string(), "script": script}), || script)
        }
    }
}

fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::definition(), "flap-gpu", &mut script);
    let script = String::from_utf8_lossy(&script);
    // Bash finds a command's options by a name that the library makes in two ways where the program's has a hyphen.
    if shell == Shell::Bash { script.replace("flap__subcmd__gpu__", "flap__gpu__") } else { script.into_owned() }
}

/// Runs work that an interrupt or a failure need not end for good, and says so where it has left something to go on from.
fn resumable(resume: &ResumeState, terminal: &Terminal, work: impl FnOnce() -> Result<()>) -> Result<()> {
    work().inspect_err(|_| {
        if resume.goes_on() {
            terminal.note("the same command goes on from the last save");
        }
    })
}

/// A path in a document, which holds Unicode only: what is not stands as a sign that says so.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Opens a model folder, and says what of it is left aside.
fn open_folder(path: &Path, terminal: &Terminal) -> crate::error::Result<Model> {
    Ok(remarked(Model::open_folder(path)?, terminal))
}

/// Opens a model folder or a GGUF file likewise.
fn open_model(path: &Path, terminal: &Terminal) -> crate::error::Result<Model> {
    Ok(remarked(Model::open(path)?, terminal))
}

/// How the model in a folder was pruned, by the plan there. That may be another program's, another version's or another model's; then it is
/// said.
fn plan_beside(model: &Model, folder: &Path, terminal: &Terminal) -> Option<Plan> {
    let path = Some(folder.join(PLAN)).filter(|path| path.is_file())?;
    let plan = Plan::read(&path).inspect_err(|error| terminal.note(&error.to_string())).ok()?;
    let describes = plan.describes(&model.architecture);
    if !describes {
        terminal.note(&format!("{PLAN} there is of another model"));
    }
    describes.then_some(plan)
}

fn remarked(model: Model, terminal: &Terminal) -> Model {
    model.remarks().iter().for_each(|remark| terminal.note(remark));
    model
}

fn open_engine(common: &Common) -> crate::error::Result<AnyEngine> {
    let mut engine = engine::select(&common.device, common.precision)?;
    if let Some(bytes) = common.memory_budget {
        engine = engine.with_memory_budget(bytes);
    }
    tracing::info!("computing on {}", engine.info().label());
    Ok(engine)
}
