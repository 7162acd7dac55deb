//! The one place that writes to the terminal: results on standard output, progress on standard error.

use super::args::Common;
use crate::progress::Progress;
use anyhow::Result;
use comfy_table::{Cell, CellAlignment, LineStyle, Table, presets};
use indicatif::style::ProgressTracker;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::cell::RefCell;
use std::io::Write;
use std::time::Duration;

/// Knows how much to say, and in which form.
pub struct Terminal {
    json: bool,
    quiet: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Terminal {
    pub fn new(common: &Common) -> Self {
        Self { json: common.json, quiet: common.quiet, bar: RefCell::default() }
    }

    /// Prints a result: the JSON document with --json, else the text.
    pub fn result(&self, json: &serde_json::Value, text: impl FnOnce() -> String) -> Result<()> {
        let mut out = if self.json { serde_json::to_string_pretty(json)? } else { text() };
        out.truncate(out.trim_end().len());
        out.push('\n');
        Self::print(out.as_bytes())
    }

    /// Writes to standard output as it is.
    pub fn print(bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout();
        stdout.write_all(bytes)?;
        Ok(stdout.flush()?)
    }

    /// A note for the user, on standard error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            // Standard error may be closed; a note is not worth failing for.
            let _ = writeln!(std::io::stderr(), "note: {text}");
        }
    }
}

impl Progress for Terminal {
    fn note(&self, text: &str) {
        Terminal::note(self, text);
    }

    fn start(&self, what: &str, unit: &str, total: u64) {
        // Hidden unless standard error is a terminal.
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let (position, rate) = match unit {
            "bytes" => ("{bytes}/{total_bytes}".to_string(), "{bytes_per_sec}"),
            // Layers and sites take seconds each.
            _ if unit.contains("tokens") => (format!("{{done}}/{{all}} {unit}"), "{rate}/s"),
            _ => (format!("{{done}}/{{all}} {unit}"), "{per_sec}"),
        };
        let template = format!("{{prefix}} [{{bar:30}}] {position}, {rate}, {{elapsed}}, {{eta}} left{{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style
            .with_key("done", count(ProgressState::pos))
            .with_key("all", count(|state| state.len().unwrap_or_default()))
            .with_key("rate", count(|state| state.per_sec() as u64))
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        bar.set_prefix(what.to_string());
        // The clock goes on through linear algebra, which advances nothing for a while.
        bar.enable_steady_tick(Duration::from_secs(1));
        self.bar.replace(Some(bar));
    }

    fn advance(&self, units: u64) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.inc(units);
        }
    }

    fn stage(&self, what: &str) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.set_message(format!("; {what}"));
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A number of a progress bar, grouped as everywhere.
fn count(of: impl Fn(&ProgressState) -> u64 + Clone + Send + Sync + 'static) -> impl ProgressTracker {
    move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = out.write_str(&grouped(of(state)));
    }
}

/// A table; all columns but the first are right-aligned.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(header.iter().enumerate().map(|(i, text)| cell(i, (*text).to_string())));
    for row in rows {
        table.add_row(row.into_iter().enumerate().map(|(i, text)| cell(i, text)));
    }
    table.to_string()
}

fn cell(column: usize, text: String) -> Cell {
    Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
}

/// A count with thin grouping, such as 3 443 136.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(" ")
}

/// Bytes in a unit that fits.
pub fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}
