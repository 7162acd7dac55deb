//! Rotary position embedding: default, linear and llama3 frequencies, written the old way (`rope_theta`, `rope_scaling`) or the
//! new (`rope_parameters`).

use crate::checkpoint::Config;
use crate::error::Result;
use std::f64::consts::PI;

/// The tensor of a GGUF file that divides the frequencies pair by pair.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How angles grow with the position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies before any scaling.
    pub theta: f64,
    /// Angle per position of each of `head_dim / 2` pairs of channels, in radians.
    pub frequencies: Vec<f64>,
}

enum Scaling {
    None,
    /// All frequencies divided by a factor.
    Linear(f64),
    /// Low frequencies divided, high ones kept, the band between blended (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original_positions: f64,
    },
}

impl Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear(factor) => frequency / factor,
            Self::Llama3 { factor, low, high, original_positions } => {
                let turns = original_positions * frequency / (2.0 * PI);
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        }
    }
}

/// The frequencies of all pairs of channels before any scaling.
fn plain(theta: f64, head_dim: usize) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / head_dim as f64))
}

impl Rope {
    /// Reads kind and base from a configuration.
    pub fn read(config: &Config, head_dim: usize) -> Result<Self> {
        let parameters = match config.optional_object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => config.optional_object("rope_scaling")?,
        };
        let theta = match parameters.as_ref().map(|p| p.optional_number("rope_theta")).transpose()?.flatten() {
            Some(theta) => theta,
            None => config.optional_number("rope_theta")?.unwrap_or(10_000.0),
        };
        let of_model = config.optional_number("partial_rotary_factor")?;
        let partial = parameters.as_ref().map(|p| p.optional_number("partial_rotary_factor")).transpose()?.flatten().or(of_model);
        if partial.is_some_and(|part| part != 1.0) {
            return Err(config.error("`partial_rotary_factor`: rotary embedding of some channels of a head only is not supported"));
        }
        let scaling = parameters.map_or(Ok(Scaling::None), |parameters| Self::read_scaling(config, &parameters))?;
        Ok(Self { theta, frequencies: plain(theta, head_dim).map(|frequency| scaling.apply(frequency)).collect() })
    }

    /// What scaling divides each pair's frequency by; `None` where it changes none.
    #[must_use]
    pub fn factors(&self) -> Option<Vec<f64>> {
        let plain = plain(self.theta, 2 * self.frequencies.len());
        let factors: Vec<f64> = plain.zip(&self.frequencies).map(|(plain, scaled)| plain / scaled).collect();
        factors.iter().any(|&factor| factor != 1.0).then_some(factors)
    }

    fn read_scaling(config: &Config, parameters: &Config) -> Result<Scaling> {
        let kind = match parameters.optional_text("rope_type")? {
            Some(kind) => Some(kind),
            None => parameters.optional_text("type")?,
        };
        Ok(match kind.unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(parameters.number("factor")?),
            "llama3" => Scaling::Llama3 {
                factor: parameters.number("factor")?,
                low: parameters.number("low_freq_factor")?,
                high: parameters.number("high_freq_factor")?,
                original_positions: parameters.number("original_max_position_embeddings")?,
            },
            other => {
                return Err(
                    config.error(format_args!("the RoPE kind `{other}` is not supported; supported are default, linear and llama3"))
                );
            }
        })
    }

    /// `[positions, head_dim]`: the cosines, then the sines, of each pair's angle.
    #[must_use]
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let mut table = Vec::with_capacity(positions * 2 * self.frequencies.len());
        for position in 0..positions {
            let angles = || self.frequencies.iter().map(|f| position as f64 * f);
            table.extend(angles().map(|a| a.cos() as f32));
            table.extend(angles().map(|a| a.sin() as f32));
        }
        table
    }
}
