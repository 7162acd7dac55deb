//! Options of the calibration.

use super::common::parse_count;
use crate::calibration::{CalibrationOptions, Shard, TextSource};
use crate::pass::PassOptions;
use crate::statistics::{Mode, TokenWeights};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Where documents hold their text unless the user says so.
pub const DEFAULT_TEXT_FIELD: &str = "text";

#[derive(Debug, Args)]
pub struct CalibrationArguments {
    /// Text to calibrate on: .txt whole, .jsonl or .json by --text-field; also as .gz
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,
    /// Field of a .jsonl or .json document that holds its text
    #[arg(long, default_value = DEFAULT_TEXT_FIELD, value_name = "NAME", help_heading = "Calibration")]
    pub text_field: String,
    /// Windows drawn from the text [default: 1024; of `prune --method wanda-sp` 128]
    #[arg(long, value_parser = parse_count, value_name = "N", help_heading = "Calibration")]
    pub samples: Option<NonZeroUsize>,
    /// Tokens of a window
    #[arg(long, value_parser = parse_count, default_value = "128", value_name = "N", help_heading = "Calibration")]
    pub sequence_length: NonZeroUsize,
    /// Seed of the windows' starts
    #[arg(long, default_value_t = 0, help_heading = "Calibration")]
    pub seed: u64,
    /// Tokens that go through a layer together [default: fit to the device]
    #[arg(long, value_parser = parse_count, value_name = "N", help_heading = "Calibration")]
    pub batch_tokens: Option<NonZeroUsize>,
    /// How much each token counts for the recipes beyond flap
    #[arg(long, value_enum, default_value_t, help_heading = "Calibration")]
    pub token_weights: TokenWeights,
    /// Reproduce the FLAP authors' released code
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

    /// How passes go through the layers.
    pub fn passes(&self) -> PassOptions {
        PassOptions::in_batches(self.batch_tokens)
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
