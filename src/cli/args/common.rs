//! Options of every command.

use crate::engine::{DeviceChoice, Precision};
use clap::Args;
use std::num::NonZeroUsize;

/// Everywhere.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// auto, cpu, gpu, gpu:N (see `flap-gpu devices`), or part of an adapter's name
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE", help_heading = "Everywhere")]
    pub device: DeviceChoice,
    /// Number format of the matrix products
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Everywhere")]
    pub precision: Precision,
    /// Print one JSON document on standard output, and nothing else there; one with `error` if the command fails
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// No progress, no notes
    #[arg(long, short, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// More about what is done; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
    /// Replace an earlier output, a folder only if nothing else lies in it; and drop the progress of another interrupted run with this output
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub force: bool,
    /// Device memory to stay within, such as 1.5G or 800M (powers of 1024); hidden states that do not fit move to host memory or a temporary file
    /// [default: three quarters of a card's memory, 4G where it is not known, a quarter of the machine's on an integrated GPU, 1G on the CPU]
    #[arg(long, global = true, value_name = "BYTES", value_parser = parse_bytes, help_heading = "Everywhere")]
    pub memory_budget: Option<u64>,
    /// Threads of the CPU engine and of reading [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Everywhere")]
    pub threads: Option<u16>,
}

impl Common {
    /// Those options that decide how many tokens go through a layer together, as they were given: the order of sums depends on it.
    pub fn options(&self, batch_tokens: Option<NonZeroUsize>) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(tokens) = batch_tokens {
            options.extend(["--batch-tokens".to_string(), tokens.to_string()]);
        }
        if let Some(bytes) = self.memory_budget {
            options.extend(["--memory-budget".to_string(), bytes.to_string()]);
        }
        options
    }
}

/// A number of things, of which there is at least one.
pub fn parse_count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "it must be a whole number from 1 on".into())
}

/// A number of bytes, with K, M, G or T for powers of 1024.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number of bytes; write 3000000000, 800M or 1.5G");
    let (number, power) = match text.find(|c: char| !c.is_ascii_digit() && c != '.') {
        None => (text, 0),
        Some(end) => {
            let unit = text[end..].to_ascii_uppercase();
            let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
            let power = ["K", "M", "G", "T"].iter().position(|known| *known == unit).ok_or_else(wrong)?;
            (&text[..end], power as u32 + 1)
        }
    };
    let bytes = match number.parse::<u64>() {
        Ok(count) => count.checked_mul(1 << (10 * power)),
        // A fraction of a unit.
        Err(_) => number
            .parse::<f64>()
            .ok()
            .filter(|_| power > 0 && number.contains('.'))
            .map(|count| (count * f64::from(10 * power).exp2()) as u64),
    };
    bytes.ok_or_else(wrong)
}
