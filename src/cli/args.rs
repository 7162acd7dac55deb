//! What can be typed. Names and defaults are stable: scripts depend on them.

use crate::architecture::Architecture;
use crate::calibration::{CalibrationOptions, Shard, TextSource};
use crate::engine::{DeviceChoice, Precision};
use crate::export::gguf::GgufType;
use crate::export::{self, Choice, Client, ExportOptions, Format};
use crate::importance::Metric;
use crate::pass::PassOptions;
use crate::plan::{Compensation, Method};
use crate::pruning::{DEFAULT_REMOVE_HEADS, PlanOptions, Uniform};
use crate::recipe::Recipe;
use crate::search::Structure;
use crate::statistics::Mode;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Tokens of a window when perplexity is measured, unless said otherwise.
pub const EVALUATION_TOKENS: NonZeroUsize = NonZeroUsize::new(2048).expect("not zero");

/// Make a decoder language model structurally smaller: prune it with FLAP, on any GPU or none.
#[derive(Debug, Parser)]
#[command(name = "flap-gpu", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// Everywhere.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// auto, cpu, gpu, gpu:N (see `flap-gpu devices`), or part of an adapter's name
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE", help_heading = "Everywhere")]
    pub device: DeviceChoice,
    /// Number format of the matrix products
    #[arg(long, global = true, value_enum, default_value_t = PrecisionArgument::Auto, help_heading = "Everywhere")]
    pub precision: PrecisionArgument,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// No progress, no notes
    #[arg(long, short, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// More about what is done; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
    /// Replace an output that exists
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub force: bool,
    /// Device memory to stay within, such as 3G or 800M; hidden states that do not fit move to host memory or a temporary file
    /// [default: 4G on a GPU, 1G on the CPU]
    #[arg(long, global = true, value_name = "BYTES", value_parser = parse_bytes, help_heading = "Everywhere")]
    pub memory_budget: Option<u64>,
    /// Threads of the CPU engine and of reading [default: all cores]
    #[arg(long, global = true, value_name = "N", help_heading = "Everywhere")]
    pub threads: Option<NonZeroUsize>,
}

impl Common {
    /// What a pass over a model may use.
    pub fn pass_options(&self, batch_tokens: Option<NonZeroUsize>) -> PassOptions {
        PassOptions { batch_tokens: batch_tokens.map(NonZeroUsize::get), memory_budget: self.memory_budget }
    }
}

/// A number of bytes, with K, M, G or T for powers of 1024.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number of bytes; write 3000000000, 800M or 3G");
    let (digits, power) = match text.find(|c: char| !c.is_ascii_digit()) {
        None => (text, 0),
        Some(end) => {
            let unit = text[end..].to_ascii_uppercase();
            let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
            let power = ["K", "M", "G", "T"].iter().position(|known| *known == unit).ok_or_else(wrong)?;
            (&text[..end], power as u32 + 1)
        }
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << (10 * power))).ok_or_else(wrong)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArgument {
    Auto,
    F32,
    F16,
}

impl From<PrecisionArgument> for Precision {
    fn from(argument: PrecisionArgument) -> Self {
        match argument {
            PrecisionArgument::Auto => Self::Auto,
            PrecisionArgument::F32 => Self::F32,
            PrecisionArgument::F16 => Self::F16,
        }
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
pub struct CalibrationArguments {
    /// Text to calibrate on: .txt whole, .jsonl by --text-field
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// Field of a .jsonl line that holds the document
    #[arg(long, default_value = "text", value_name = "NAME", help_heading = "Calibration")]
    pub text_field: String,
    /// Windows drawn from the text [default: 1024; 128 for wanda-sp]
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    pub samples: Option<NonZeroUsize>,
    /// Tokens of a window
    #[arg(long, default_value = "128", value_name = "N", help_heading = "Calibration")]
    pub sequence_length: NonZeroUsize,
    /// Seed of the windows' starts
    #[arg(long, default_value_t = 0, help_heading = "Calibration")]
    pub seed: u64,
    /// Tokens that go through a layer together [default: fit to the device]
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    pub batch_tokens: Option<NonZeroUsize>,
    /// Reproduce the FLAP authors' released code, number for number
    #[arg(long, help_heading = "Calibration")]
    pub compat: bool,
}

impl CalibrationArguments {
    /// Where the text is.
    pub fn source(&self) -> crate::error::Result<TextSource> {
        let Some(path) = self.calibration.clone() else {
            return Err(crate::error::Error::input("a calibration text is needed: give --calibration FILE"));
        };
        Ok(TextSource { path, field: self.text_field.clone() })
    }

    /// As the library wants it; `samples` where the user did not say.
    pub fn options(&self, samples: usize, shard: Option<Shard>) -> CalibrationOptions {
        CalibrationOptions {
            samples: self.samples.map_or(samples, NonZeroUsize::get),
            sequence_length: self.sequence_length.get(),
            seed: self.seed,
            mode: if self.compat { Mode::Compat } else { Mode::Exact },
            shard,
        }
    }
}

#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Form of the output; may be given twice [default: hf]
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Vec<Format>,
    /// Number format of a GGUF file's matrices
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub gguf_type: GgufType,
}

impl ExportArguments {
    /// As the library wants it.
    pub fn options(&self, output: &Path, format: Format) -> ExportOptions {
        let formats = if self.format.is_empty() { vec![format] } else { self.format.clone() };
        ExportOptions { formats, gguf_type: self.gguf_type, name: export::name_of(output) }
    }
}

#[derive(Debug, Args)]
pub struct PlanningArguments {
    /// Share of the prunable parameters to remove, between 0 and 1
    #[arg(long, default_value_t = 0.2, help_heading = "Planning")]
    pub ratio: f64,
    /// How the pruned model is made [default: sequential for prune, unless one of the options of flap is given; flap for plan]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub recipe: Option<Recipe>,
    /// Leave the projections that read the residual stream as they are (sequential)
    #[arg(long, help_heading = "Planning")]
    pub no_refit: bool,
    /// How units are chosen (flap) [default: flap]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub method: Option<Method>,
    /// FLAP's metric (flap) [default: wifv]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub metric: Option<Metric>,
    /// How the budget is spread: adaptive (AL) or uniform (UL) over layers; adaptive (AM), uniform (UM) or manual (MM) over attention and MLP
    /// (flap) [default: al-am]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub structure: Option<Structure>,
    /// Query heads to remove in the -mm structures (flap) [default: 8]
    #[arg(long, value_name = "N", help_heading = "Planning")]
    pub remove_heads: Option<usize>,
    /// What becomes of the mean of what was removed (flap) [default: bias]
    #[arg(long, value_enum, help_heading = "Planning")]
    pub compensation: Option<Compensation>,
    /// Kept neurons of each layer become a multiple of this [default: 1]
    #[arg(long, value_name = "K", help_heading = "Planning")]
    pub round_neurons: Option<NonZeroUsize>,
    /// Kept query heads of each layer become a multiple of this [default: 1]
    #[arg(long, value_name = "K", help_heading = "Planning")]
    pub round_heads: Option<NonZeroUsize>,
    /// Every layer keeps the same number of heads and of neurons, for programs that know one size only
    #[arg(long, help_heading = "Planning")]
    pub uniform: bool,
    /// Choose form, rounding and structure that this program loads; what is given explicitly stays
    #[arg(long = "for", value_enum, value_name = "CLIENT", help_heading = "Planning")]
    pub client: Option<Client>,
    /// Zero instead of remove: the shapes stay (flap)
    #[arg(long, help_heading = "Planning")]
    pub mask_only: bool,
}

impl PlanningArguments {
    /// What the client's abilities call for.
    pub fn choice(&self, model: &Architecture) -> Option<Choice> {
        self.client.map(|client| client.choose(model))
    }

    /// The recipe: what is said; else FLAP where one of its own options is given or the client cannot load biases; else `otherwise`.
    fn recipe(&self, compat: bool, choice: Option<&Choice>, otherwise: Recipe) -> crate::error::Result<Recipe> {
        let own = [
            (compat, "--compat"),
            (self.method.is_some(), "--method"),
            (self.metric.is_some(), "--metric"),
            (self.structure.is_some(), "--structure"),
            (self.remove_heads.is_some(), "--remove-heads"),
            (self.compensation.is_some(), "--compensation"),
            (self.mask_only, "--mask-only"),
        ];
        let given = own.iter().find(|(given, _)| *given);
        match (self.recipe, given) {
            (None, None) if choice.is_some_and(|choice| choice.compensation == Compensation::None) => Ok(Recipe::Flap),
            (None, None) => Ok(otherwise),
            (None | Some(Recipe::Flap), _) => Ok(Recipe::Flap),
            (Some(recipe), None) => Ok(recipe),
            (Some(recipe), Some((_, option))) => Err(crate::error::Error::input(format!(
                "{option} belongs to --recipe flap; --recipe {} takes --ratio, --uniform and the rounding options",
                recipe.name()
            ))),
        }
    }

    /// As the library wants it for a model; fails on a ratio outside (0, 1) before any work is done. `otherwise` is the recipe where
    /// nothing speaks for one.
    pub fn options(&self, model: &Architecture, compat: bool, otherwise: Recipe) -> crate::error::Result<PlanOptions> {
        if !(self.ratio > 0.0 && self.ratio < 1.0) {
            return Err(crate::error::Error::input(format!("--ratio {} is outside (0, 1); 0.2 removes a fifth", self.ratio)));
        }
        let choice = self.choice(model);
        let multiple = |given: Option<NonZeroUsize>, chosen: fn(&Choice) -> usize| {
            given.map_or_else(|| choice.as_ref().map_or(1, chosen), NonZeroUsize::get)
        };
        let uniform = self.uniform || choice.as_ref().is_some_and(|choice| choice.uniform);
        let heads = if self.client == Some(Client::LlamaCpp) { Uniform::AnyHeads } else { Uniform::DivisorsOfHidden };
        Ok(PlanOptions {
            recipe: self.recipe(compat, choice.as_ref(), otherwise)?,
            method: self.method.unwrap_or_default(),
            metric: self.metric.unwrap_or_default(),
            structure: self.structure.unwrap_or_default(),
            ratio: self.ratio,
            remove_heads: self.remove_heads.unwrap_or(DEFAULT_REMOVE_HEADS),
            round_neurons: multiple(self.round_neurons, |choice| choice.round_neurons),
            round_heads: multiple(self.round_heads, |choice| choice.round_heads),
            uniform: uniform.then_some(heads),
            compensation: self.compensation.unwrap_or_else(|| choice.as_ref().map_or(Compensation::Bias, |choice| choice.compensation)),
            mask_only: self.mask_only,
        })
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
    /// Measure the perplexity on a text before and after, as `eval` does, and say it in the report and the model card
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub evaluate: Option<PathBuf>,
    /// Only the first N windows of --evaluate
    #[arg(long, value_name = "N", requires = "evaluate", help_heading = "Output")]
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
    /// Text to evaluate on: .txt whole, .jsonl by --text-field
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Field of a .jsonl line that holds the document
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub text_field: String,
    /// Tokens of a window
    #[arg(long, default_value_t = EVALUATION_TOKENS, value_name = "N")]
    pub sequence_length: NonZeroUsize,
    /// Only the first N windows
    #[arg(long, value_name = "N")]
    pub windows: Option<NonZeroUsize>,
    /// Tokens that go through a layer together [default: fit to the device]
    #[arg(long, value_name = "N")]
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
