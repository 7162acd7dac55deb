//! `flap-gpu eval`.

use super::args::{Common, EvalArguments};
use super::terminal::{Terminal, grouped};
use super::{open_engine, open_model, shown, with_engine};
use crate::calibration::{TextSource, sequential_windows};
use crate::error::{Error, Result};
use crate::evaluation::perplexity;
use crate::model::Model;
use crate::pass::PassOptions;
use crate::progress::Progress;
use serde_json::json;
use std::num::NonZeroUsize;
use std::time::Instant;

pub fn run(args: &EvalArguments, common: &Common, terminal: &Terminal) -> anyhow::Result<()> {
    let model = open_model(&args.model, terminal)?;
    let source = TextSource { path: args.text.clone(), field: args.text_field.clone() };
    let length = window_length(&model, args.sequence_length)?;
    let ids = windows(&model, &source, length, args.windows, terminal)?;
    let engine = open_engine(common)?;
    let begin = Instant::now();
    let options = PassOptions::in_batches(args.batch_tokens);
    let result = with_engine!(engine, e => perplexity(e, &model, &ids, length, options, terminal))?;
    let seconds = begin.elapsed().as_secs_f64();
    let report = json!({
        "perplexity": result.perplexity,
        "text": shown(&args.text),
        "tokens": ids.len(),
        "windows": result.windows,
        "sequence_length": length,
        "device": engine.info().label(),
        "seconds": seconds,
    });
    terminal.result(&report, || {
        format!(
            "perplexity {:.4} on {} tokens ({} windows of {length}), {seconds:.1} s on {}",
            result.perplexity,
            grouped(ids.len() as u64),
            result.windows,
            engine.info().label()
        )
    })
}

/// Bytes of text that hold a token, of nearly any language and tokenizer.
const ENOUGH_BYTES_A_TOKEN: usize = 32;

/// Tokens of a window if nothing else is said, as the authors have them, and no more than the model is made for.
const EVALUATION_TOKENS: usize = 2048;

/// Tokens that the model is made for.
fn context(model: &Model) -> Result<Option<usize>> {
    model.config.optional_size("max_position_embeddings")
}

/// Tokens of a window to evaluate on.
pub fn window_length(model: &Model, asked: Option<NonZeroUsize>) -> Result<usize> {
    let fitting = context(model)?.map_or(EVALUATION_TOKENS, |most| EVALUATION_TOKENS.min(most));
    Ok(asked.map_or(fitting, NonZeroUsize::get))
}

/// What to do about windows that are too long.
pub const SHORTER: &str = "give a smaller --sequence-length";

/// Says so where windows are longer than what the model was made for.
pub fn note_long(model: &Model, length: usize, remedy: &str, terminal: &Terminal) -> Result<()> {
    if let Some(most) = context(model)?.filter(|&most| most < length) {
        terminal.note(&format!("windows of {length} tokens are longer than the {most} that the model is made for: {remedy}"));
    }
    Ok(())
}

/// The token ids of a text's consecutive windows, or of the first of them.
pub fn windows(model: &Model, source: &TextSource, length: usize, count: Option<NonZeroUsize>, terminal: &Terminal) -> Result<Vec<u32>> {
    note_long(model, length, SHORTER, terminal)?;
    let tokenizer = model.tokenizer()?;
    terminal.start("tokenising", "", 0);
    let mut ids = match count {
        None => tokenizer.encode(source.read()?)?,
        // Tokenising all of a long text for a few windows would take longer than they do.
        Some(count) => {
            let wanted = length.saturating_mul(count.get());
            let (text, is_cut) = source.read_beginning(wanted.saturating_mul(ENOUGH_BYTES_A_TOKEN))?;
            let ids = tokenizer.encode(text)?;
            // The last token may not be the whole text's.
            if is_cut && ids.len() <= wanted { tokenizer.encode(source.read()?)? } else { ids }
        }
    };
    terminal.finish();
    let windows = sequential_windows(ids.len(), length, count.map(NonZeroUsize::get));
    let windows = windows.map_err(|error| Error::file(&source.path, error.to_string()))?;
    ids.truncate(windows * length);
    Ok(ids)
}
