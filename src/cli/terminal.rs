//! The one place that writes to the terminal: results on standard output, progress on standard error.

use super::args::Common;
use crate::progress::Progress;
use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, LineStyle, Table, presets};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where no bar can be drawn, as in a log file, a line tells of long work this often.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Knows how much to say, and in which form.
pub struct Terminal {
    json: bool,
    quiet: bool,
    notes: Notes,
    /// The work under way.
    work: RefCell<Option<Work>>,
    /// Where its bar is drawn.
    bars: MultiProgress,
}

/// What was noted so far, for the JSON document.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn push(&self, note: String) {
        self.all().push(note);
    }

    fn all(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard error for lines between which a bar may stand: it is taken away for them and drawn again.
#[derive(Clone)]
pub struct Lines(MultiProgress);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Long work, as a bar or in lines.
struct Work {
    bar: ProgressBar,
    unit: String,
    /// When the last line was written; none where a bar is drawn, or nothing is to be said.
    last_line: Option<Instant>,
}

impl Terminal {
    pub fn new(common: &Common) -> Self {
        // Hidden unless standard error is a terminal.
        let target = if common.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bars = MultiProgress::with_draw_target(target);
        Self { json: common.json, quiet: common.quiet, notes: Notes::default(), work: RefCell::default(), bars }
    }

    /// Where others may write lines.
    pub fn lines(&self) -> Lines {
        Lines(self.bars.clone())
    }

    /// Where others may add notes to the JSON document.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Prints a result: the JSON document with --json, and the notes in it, else the text.
    pub fn result(&self, json: &Value, text: impl FnOnce() -> String) -> Result<()> {
        let document = || {
            let mut json = json.clone();
            if let Value::Object(fields) = &mut json {
                fields.insert("notes".into(), json!(*self.notes.all()));
            }
            serde_json::to_string_pretty(&json)
        };
        let mut out = if self.json { document()? } else { text() };
        out.truncate(out.trim_end().len());
        out.push('\n');
        Self::print(out.as_bytes())
    }

    /// Writes to standard output as it is.
    pub fn print(bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).context("standard output cannot be written")
    }

    /// A note for the user, on standard error.
    pub fn note(&self, text: &str) {
        self.notes.push(text.to_string());
        self.say(text);
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            // Standard error may be closed; a note is not worth failing for.
            let _ = self.lines().write_all(format!("note: {text}\n").as_bytes());
        }
    }
}

impl Progress for Terminal {
    fn note(&self, text: &str) {
        Terminal::note(self, text);
    }

    fn start(&self, what: &str, unit: &str, total: u64) {
        let rate = if unit == "bytes" { " {bytes_per_sec}," } else { "" };
        // A line that is wider than the terminal would stay there.
        let columns = console::Term::stderr().size().1;
        let template = match columns {
            _ if total == 0 => "{prefix}, {elapsed}".to_string(),
            0..50 => "{percent} %{wide_msg}".to_string(),
            50..100 => "{prefix} {percent} %, {elapsed}{left}{wide_msg}".to_string(),
            _ => format!("{{prefix}} [{{bar:20}}] {{percent}} %,{rate} {{elapsed}}{{left}}{{wide_msg}}"),
        };
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("left", left).progress_chars("=> ");
        let bar = self.bars.add(ProgressBar::new(total)).with_style(style);
        bar.set_prefix(what.to_string());
        // The clock goes on through linear algebra, which advances nothing for a while.
        bar.enable_steady_tick(Duration::from_secs(1));
        let in_lines = !self.quiet && !std::io::stderr().is_terminal();
        self.work.replace(Some(Work { bar, unit: unit.to_string(), last_line: in_lines.then(Instant::now) }));
    }

    fn advance(&self, units: u64) {
        if let Some(work) = &mut *self.work.borrow_mut() {
            work.bar.inc(units);
            if work.last_line.is_some_and(|last| last.elapsed() >= LINE_INTERVAL) {
                self.say(&work.line());
                work.last_line = Some(Instant::now());
            }
        }
    }

    fn stage(&self, what: &str) {
        if let Some(work) = &*self.work.borrow() {
            work.bar.set_message(format!("; {what}"));
        }
    }

    fn finish(&self) {
        if let Some(work) = self.work.take() {
            work.bar.finish_and_clear();
            self.bars.remove(&work.bar);
        }
    }
}

impl Work {
    /// How far it is, such as `calibrating: 12 % of 4 194 304 tokens x layers in 41 seconds, about 5 minutes left; layer 3, MLP: units`.
    fn line(&self) -> String {
        let (done, total, elapsed) = (self.bar.position(), self.bar.length().unwrap_or_default(), self.bar.elapsed());
        let all = if self.unit == "bytes" { size(total) } else { format!("{} {}", grouped(total), self.unit) };
        let share = done as f64 / total.max(1) as f64;
        // Nothing done is nothing to go by.
        let left = match done {
            0 => String::new(),
            _ => format!(", about {} left", HumanDuration(elapsed.mul_f64((1.0 / share - 1.0).clamp(0.0, 1e6)))),
        };
        let elapsed = HumanDuration(elapsed);
        format!("{}: {:.0} % of {all} in {elapsed}{left}{}", self.bar.prefix(), 100.0 * share, self.bar.message())
    }
}

/// What is left of the time, once there is something to go by.
fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(out, ", {:#} left", HumanDuration(state.eta()));
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
