//! The kinds of scaling by which models reach further than they were first trained: as transformers computes them
//! (`modeling_rope_utils.py`), with its names of the keys.

use super::{LongWindows, Rope};
use crate::checkpoint::Config;
use crate::error::Result;
use std::f64::consts::PI;

/// A kind of scaling and its numbers.
pub enum Scaling {
    None,
    /// All frequencies divided by a factor.
    Linear(f64),
    /// Low frequencies divided, high ones kept, the band between blended by turns in the original positions (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original_positions: f64,
    },
    /// Low frequencies divided, high ones kept, the band between blended pair by pair.
    Yarn {
        factor: f64,
        /// Turns in the original positions from which a frequency is kept, and below which it is divided.
        turns: [f64; 2],
        whole_pairs: bool,
        original_positions: f64,
        amplitude: f64,
    },
    /// Every frequency divided by a number of its own, in long windows by another (Phi-3).
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        original_positions: usize,
        amplitude: f64,
    },
}

impl Scaling {
    /// Reads the kind that `parameters` name; `config` holds them.
    pub fn read(config: &Config, parameters: &Config) -> Result<Self> {
        let kind = match parameters.optional_text("rope_type")? {
            Some(kind) => Some(kind),
            None => parameters.optional_text("type")?,
        };
        Ok(match kind.unwrap_or("default") {
            "default" => Self::None,
            "linear" => Self::Linear(parameters.number("factor")?),
            "llama3" => Self::Llama3 {
                factor: parameters.number("factor")?,
                low: parameters.number("low_freq_factor")?,
                high: parameters.number("high_freq_factor")?,
                original_positions: parameters.number("original_max_position_embeddings")?,
            },
            "yarn" => Self::read_yarn(config, parameters)?,
            "longrope" | "su" => Self::read_long(config, parameters)?,
            other => {
                return Err(config.error(format_args!(
                    "the RoPE kind `{other}` is not supported; supported are default, linear, llama3, yarn and longrope"
                )));
            }
        })
    }

    fn read_yarn(config: &Config, parameters: &Config) -> Result<Self> {
        let original_positions = original_positions(config, parameters)?;
        let factor = factor(config, parameters, original_positions)?;
        let of = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let scales = (parameters.optional_number("mscale")?, parameters.optional_number("mscale_all_dim")?);
        let amplitude = match (parameters.optional_number("attention_factor")?, scales) {
            (Some(amplitude), _) => amplitude,
            (None, (Some(scale), Some(all))) => of(scale) / of(all),
            (None, _) => of(1.0),
        };
        let turns = [parameters.optional_number("beta_fast")?.unwrap_or(32.0), parameters.optional_number("beta_slow")?.unwrap_or(1.0)];
        let whole_pairs = parameters.flag("truncate", true)?;
        Ok(Self::Yarn { factor, turns, whole_pairs, original_positions: original_positions as f64, amplitude })
    }

    fn read_long(config: &Config, parameters: &Config) -> Result<Self> {
        let original_positions = original_positions(config, parameters)?;
        let factor = factor(config, parameters, original_positions)?;
        let amplitude = match parameters.optional_number("attention_factor")? {
            Some(amplitude) => amplitude,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original_positions as f64).ln()).sqrt(),
        };
        let (short, long) = (parameters.positive_numbers("short_factor")?, parameters.positive_numbers("long_factor")?);
        Ok(Self::Long { short, long, original_positions, amplitude })
    }

    /// Scales frequencies that follow from the base.
    pub fn apply(self, config: &Config, theta: f64, plain: Vec<f64>) -> Result<Rope> {
        let scaled = |scale: &dyn Fn(usize, f64) -> f64| plain.iter().enumerate().map(|(pair, &f)| scale(pair, f)).collect::<Vec<f64>>();
        let mut rope = Rope { theta, frequencies: Vec::new(), long: None, amplitude: 1.0 };
        rope.frequencies = match self {
            Self::None => plain,
            Self::Linear(factor) => scaled(&|_, frequency| frequency / factor),
            Self::Llama3 { factor, low, high, original_positions } => scaled(&|_, frequency| {
                let turns = original_positions * frequency / (2.0 * PI);
                blend(frequency, factor, ((turns - low) / (high - low)).clamp(0.0, 1.0))
            }),
            Self::Yarn { factor, turns, whole_pairs, original_positions, amplitude } => {
                rope.amplitude = amplitude;
                let channels = 2 * plain.len();
                // The pair, not always a whole one, that makes so many turns in the original positions.
                let pair = |turns: f64| channels as f64 * (original_positions / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
                let [first, last] = turns.map(pair);
                let [first, last] = if whole_pairs { [first.floor(), last.ceil()] } else { [first, last] };
                let (first, last) = (first.max(0.0), last.min(channels as f64 - 1.0));
                let width = if first == last { 0.001 } else { last - first };
                scaled(&|pair, frequency| blend(frequency, factor, 1.0 - ((pair as f64 - first) / width).clamp(0.0, 1.0)))
            }
            Self::Long { short, long, original_positions, amplitude } => {
                for (key, factors) in [("short_factor", &short), ("long_factor", &long)] {
                    if factors.len() != plain.len() {
                        let (found, wanted) = (factors.len(), plain.len());
                        return Err(config.error(format_args!("`{key}` has {found} numbers for {wanted} pairs of a head's channels")));
                    }
                }
                rope.amplitude = amplitude;
                rope.long = Some(LongWindows { original_positions, frequencies: scaled(&|pair, frequency| frequency / long[pair]) });
                scaled(&|pair, frequency| frequency / short[pair])
            }
        };
        Ok(rope)
    }
}

/// A frequency of which a share is kept, the rest divided by a factor.
fn blend(frequency: f64, factor: f64, kept: f64) -> f64 {
    kept * frequency + (1.0 - kept) * frequency / factor
}

/// The positions that a model was first trained on.
fn original_positions(config: &Config, parameters: &Config) -> Result<usize> {
    const KEY: &str = "original_max_position_embeddings";
    match (config.optional_size(KEY)?, parameters.optional_size(KEY)?) {
        (Some(positions), _) | (None, Some(positions)) => Ok(positions),
        (None, None) => config.size("max_position_embeddings"),
    }
}

/// How many times further a model reaches.
fn factor(config: &Config, parameters: &Config, original_positions: usize) -> Result<f64> {
    match parameters.optional_number("factor")? {
        Some(factor) => Ok(factor),
        None => Ok(config.size("max_position_embeddings")? as f64 / original_positions as f64),
    }
}
