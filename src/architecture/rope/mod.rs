//! Rotary position embedding, written the old way (`rope_theta`, `rope_scaling`) or the new (`rope_parameters`).

mod scaling;

use crate::checkpoint::Config;
use crate::error::Result;
use scaling::Scaling;

/// The tensor of a GGUF file that divides the frequencies pair by pair.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same for windows within the original positions, and for longer ones.
pub const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";
/// See [`ROPE_FACTORS_SHORT`].
pub const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";

/// How angles grow with the position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies before any scaling.
    pub theta: f64,
    /// Angle per position of each of `head_dim / 2` pairs of channels, in radians.
    pub frequencies: Vec<f64>,
    /// Other angles in long windows.
    pub long: Option<LongWindows>,
    /// By which cosines and sines are multiplied.
    pub amplitude: f64,
}

/// What longer windows than a model was first trained on turn by.
#[derive(Debug, Clone, PartialEq)]
pub struct LongWindows {
    /// Windows of more than so many positions are long.
    pub original_positions: usize,
    /// As [`Rope::frequencies`].
    pub frequencies: Vec<f64>,
}

/// The frequencies of all pairs of channels before any scaling.
fn plain(theta: f64, head_dim: usize) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / head_dim as f64))
}

/// What a configuration says about rotary embedding under one key.
pub fn parameters(config: &Config) -> Result<Option<Config>> {
    match config.optional_object("rope_parameters")? {
        Some(parameters) => Ok(Some(parameters)),
        None => config.optional_object("rope_scaling"),
    }
}

/// The share of a head's channels that turn, if the configuration says it.
pub fn turned_share(config: &Config) -> Result<Option<f64>> {
    const KEY: &str = "partial_rotary_factor";
    let own = parameters(config)?.map(|parameters| parameters.optional_number(KEY)).transpose()?.flatten();
    Ok(own.or(config.optional_number(KEY)?))
}

/// Whether the configuration says the base of the frequencies.
pub fn says_theta(config: &Config) -> Result<bool> {
    const KEY: &str = "rope_theta";
    Ok(config.get(KEY).is_some() || parameters(config)?.is_some_and(|parameters| parameters.get(KEY).is_some()))
}

impl Rope {
    /// Reads kind and base from a configuration.
    pub fn read(config: &Config, head_dim: usize) -> Result<Self> {
        let parameters = parameters(config)?;
        let theta = match parameters.as_ref().map(|p| p.optional_number("rope_theta")).transpose()?.flatten() {
            Some(theta) => theta,
            None => config.optional_number("rope_theta")?.unwrap_or(10_000.0),
        };
        if turned_share(config)?.is_some_and(|share| share != 1.0) {
            return Err(config.error("`partial_rotary_factor`: rotary embedding of some channels of a head only is not supported here"));
        }
        let scaling = parameters.map_or(Ok(Scaling::None), |parameters| Scaling::read(config, &parameters))?;
        scaling.apply(config, theta, plain(theta, head_dim).collect())
    }

    /// The same with numbers that f32 holds: their last digits differ between systems' libraries of functions.
    #[must_use]
    pub fn in_f32(&self) -> Self {
        let rounded = |numbers: &[f64]| numbers.iter().map(|&number| f64::from(number as f32)).collect();
        let long = self.long.as_ref();
        let long = long.map(|long| LongWindows { frequencies: rounded(&long.frequencies), ..long.clone() });
        Self { frequencies: rounded(&self.frequencies), long, amplitude: f64::from(self.amplitude as f32), ..*self }
    }

    /// What scaling divides each pair's frequency by.
    #[must_use]
    pub fn factors_of(&self, frequencies: &[f64]) -> Vec<f64> {
        plain(self.theta, 2 * frequencies.len()).zip(frequencies).map(|(plain, scaled)| plain / scaled).collect()
    }

    /// Whether frequencies follow from the base alone, and cosines and sines from them.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.long.is_none() && self.amplitude == 1.0 && self.factors_of(&self.frequencies).iter().all(|&factor| factor == 1.0)
    }

    /// `[positions, head_dim]`: the cosines, then the sines, of each pair's angle, in windows of so many positions.
    #[must_use]
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let frequencies = match &self.long {
            Some(long) if positions > long.original_positions => &long.frequencies,
            _ => &self.frequencies,
        };
        let mut table = Vec::with_capacity(positions * 2 * frequencies.len());
        for position in 0..positions {
            let angles = || frequencies.iter().map(|f| position as f64 * f);
            table.extend(angles().map(|a| (self.amplitude * a.cos()) as f32));
            table.extend(angles().map(|a| (self.amplitude * a.sin()) as f32));
        }
        table
    }
}
