//! Log lines on standard error; warnings are notes of the JSON document, too.

use super::args::Common;
use super::terminal::{Notes, Terminal};
use std::fmt::Debug;
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

pub fn start(common: &Common, terminal: &Terminal) {
    let lines = terminal.lines();
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (false, 0) => "warn,wgpu_hal=error,wgpu_core=error,naga=error",
        (false, 1) => "info,wgpu_hal=warn,wgpu_core=warn,naga=warn",
        (false, 2) => "debug,wgpu_hal=info,wgpu_core=info,naga=info",
        (false, _) => "trace",
    };
    let on_standard_error = tracing_subscriber::fmt::layer()
        .with_writer(move || lines.clone())
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .without_time()
        .with_target(common.verbose > 1)
        .with_filter(EnvFilter::new(level));
    let in_document = Warnings(terminal.notes()).with_filter(filter_fn(is_own_warning));
    tracing_subscriber::registry().with(on_standard_error).with(in_document).init();
}

/// Libraries warn of what is theirs.
fn is_own_warning(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::WARN && metadata.target().starts_with("flap_gpu")
}

/// Notes what it is told.
struct Warnings(Notes);

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.push(message.0);
    }
}

/// The words of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
