//! What can be typed. Names and defaults are stable: scripts depend on them.

mod calibration;
mod common;
mod planning;

pub use calibration::{CalibrationArguments, DEFAULT_TEXT_FIELD};
pub use common::Common;
use common::parse_count;
pub use planning::PlanningArguments;

use crate::calibration::Shard;
use crate::export::gguf::GgufType;
use crate::export::{self, ExportOptions, Format};
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Make a decoder language model structurally smaller: prune it with FLAP, on any GPU or none.
#[derive(Debug, Parser)]
#[command(name = "flap-gpu", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

impl Arguments {
    /// As typed, or why it cannot be read; help is such an error.
    pub fn read() -> Result<Self, clap::Error> {
        Self::from_arg_matches(&Self::definition().try_get_matches()?)
    }

    /// What can be typed.
    pub fn definition() -> clap::Command {
        // A negative number is a wrong value, not an unknown option.
        let number = |arg: Arg| if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg };
        // Options are shared with `prune`; what `plan` refuses, with the reason, is not in its help.
        Self::command().mut_args(number).mut_subcommands(|command| command.mut_args(number)).mut_subcommand("plan", |plan| {
            plan.mut_arg("recipe", |recipe| {
                recipe
                    .hide_possible_values(true)
                    .help("flap, or least-squares where the statistics have covariances [default: flap]")
                    .long_help(None::<&str>)
            })
            .mut_arg("method", |method| method.hide(true))
            .mut_arg("no_refit", |no_refit| no_refit.hide(true))
        })
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prune a model folder to a smaller folder: calibrate, plan and compact in one go
    Prune(PruneArguments),
    /// Measure a model's channels on a text; the result serves every ratio, metric and structure
    Calibrate(CalibrateArguments),
    /// Merge the statistics of the shards of one calibration
    Merge(MergeArguments),
    /// Decide which heads and neurons stay
    Plan(PlanCommandArguments),
    /// Carry out a plan
    Compact(CompactArguments),
    /// Write a model folder, pruned or not, as a GGUF file
    Convert(ConvertArguments),
    /// Perplexity of a model on a text: a folder, pruned or not, or a GGUF file
    Eval(EvalArguments),
    /// Run token ids through a model and save its logits, to hold it against another implementation
    Forward(ForwardArguments),
    /// Show what a model folder, a GGUF file, a statistics file or a plan is
    Inspect(InspectArguments),
    /// List the adapters of this machine
    Devices,
    /// Measure how fast this machine's devices are, at the shapes of real models
    Bench(BenchArguments),
    /// Prune the small model that ships with the program, and show what it costs
    Demo,
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Form of the output; may be given twice [default: hf]
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Vec<Format>,
    /// Number format of a GGUF file's matrices [default: f16]
    #[arg(long, value_enum, help_heading = "Output")]
    pub gguf_type: Option<GgufType>,
}

impl ExportArguments {
    /// As the library wants it; `format` where the user did not say.
    pub fn options(&self, output: &Path, format: Format) -> crate::error::Result<ExportOptions> {
        let mut formats = if self.format.is_empty() { vec![format] } else { self.format.clone() };
        formats.sort_unstable();
        formats.dedup();
        if self.gguf_type.is_some() && !formats.contains(&Format::Gguf) {
            return Err(crate::error::Error::input("--gguf-type is of a GGUF file: give --format gguf too"));
        }
        if !formats.contains(&Format::Gguf) && output.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
            return Err(crate::error::Error::file(output, "will be a folder: give --format gguf for a GGUF file in it, or another name"));
        }
        Ok(ExportOptions { formats, gguf_type: self.gguf_type.unwrap_or_default(), name: export::output_name(output) })
    }
}

#[derive(Debug, Args)]
pub struct PruneArguments {
    /// Model folder
    pub model: PathBuf,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub export: ExportArguments,
    /// Measure the perplexity on a text before and after, in windows of 2048 tokens or of the model's context where that is shorter, and
    /// say it in the report and the model card
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub evaluate: Option<PathBuf>,
    /// Only the first N windows of --evaluate
    #[arg(long, value_parser = parse_count, value_name = "N", requires = "evaluate", help_heading = "Output")]
    pub windows: Option<NonZeroUsize>,
    #[command(flatten)]
    pub calibration: CalibrationArguments,
    #[command(flatten)]
    pub planning: PlanningArguments,
}

#[derive(Debug, Args)]
pub struct CalibrateArguments {
    /// Model folder
    pub model: PathBuf,
    /// Statistics file to write
    #[arg(long, short, value_name = "STATS")]
    pub output: PathBuf,
    /// Only part I of N of the windows; `merge` joins the parts
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Keep the covariances of all channels as well: `plan --recipe least-squares` needs them. The file takes two bytes for every pair of
    /// channels of a site, for a 7B model 9 GB
    #[arg(long, conflicts_with = "compat")]
    pub covariances: bool,
    #[command(flatten)]
    pub calibration: CalibrationArguments,
}

#[derive(Debug, Args)]
pub struct MergeArguments {
    /// Statistics files of one calibration
    #[arg(required = true)]
    pub statistics: Vec<PathBuf>,
    /// Statistics file to write
    #[arg(long, short, value_name = "STATS")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct PlanCommandArguments {
    /// Model folder
    pub model: PathBuf,
    /// Statistics of the model
    #[arg(long, value_name = "STATS")]
    pub statistics: PathBuf,
    /// Plan to write
    #[arg(long, short, value_name = "PLAN")]
    pub output: PathBuf,
    #[command(flatten)]
    pub planning: PlanningArguments,
}

#[derive(Debug, Args)]
pub struct CompactArguments {
    /// Model folder
    pub model: PathBuf,
    /// Statistics of the model; not needed for a plan without compensation
    #[arg(long, value_name = "STATS")]
    pub statistics: Option<PathBuf>,
    /// The plan to carry out
    #[arg(long, value_name = "PLAN")]
    pub plan: PathBuf,
    /// Folder to write
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub export: ExportArguments,
}

#[derive(Debug, Args)]
pub struct ConvertArguments {
    /// Model folder
    pub model: PathBuf,
    /// GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Number format of the matrices
    #[arg(long, value_enum, default_value_t)]
    pub gguf_type: GgufType,
}

#[derive(Debug, Args)]
pub struct EvalArguments {
    /// Model folder or GGUF file
    pub model: PathBuf,
    /// Text to evaluate on: .txt whole, .jsonl or .json by --text-field; also as .gz
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Field of a .jsonl or .json document that holds its text
    #[arg(long, default_value = DEFAULT_TEXT_FIELD, value_name = "NAME")]
    pub text_field: String,
    /// Tokens of a window [default: 2048, or what the model is made for where that is less]
    #[arg(long, value_parser = parse_count, value_name = "N")]
    pub sequence_length: Option<NonZeroUsize>,
    /// Only the first N windows
    #[arg(long, value_parser = parse_count, value_name = "N")]
    pub windows: Option<NonZeroUsize>,
    /// Tokens that go through a layer together [default: fit to the device]
    #[arg(long, value_parser = parse_count, value_name = "N")]
    pub batch_tokens: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub struct ForwardArguments {
    /// Model folder or GGUF file
    pub model: PathBuf,
    /// Safetensors file with `input_ids` [batch, seq] as i64
    #[arg(long, value_name = "FILE")]
    pub tokens: PathBuf,
    /// Safetensors file to write: `logits` [batch, seq, vocabulary] f32
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Save the inputs of o_proj and down_proj of every layer too
    #[arg(long)]
    pub taps: bool,
    /// Round the rotary frequencies to the weights' format, as a model object cast to 16 bits has them (a loaded one does not)
    #[arg(long)]
    pub cast_rope: bool,
}

#[derive(Debug, Args)]
pub struct BenchArguments {
    /// Compare with an earlier report of `bench --json`
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Write the report as JSON, whatever is printed
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Model folder, GGUF file, statistics file or plan
    pub path: PathBuf,
}
