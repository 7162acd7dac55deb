//! `flap-gpu forward`.

use super::args::{Common, ForwardArguments};
use super::eval::note_long;
use super::terminal::Terminal;
use super::{open_engine, open_model, shown, with_engine};
use crate::architecture::PerSite;
use crate::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader};
use crate::disk::OutputFile;
use crate::error::Error;
use crate::evaluation::run_tokens;
use crate::pass::PassOptions;
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

pub fn run(args: &ForwardArguments, common: &Common, terminal: &Terminal) -> Result<()> {
    let mut model = open_model(&args.model, terminal)?;
    if args.cast_rope {
        model.cast_rope()?;
    }
    let output = OutputFile::create(&args.output, &[&args.model, &args.tokens], common.force)?;
    let (ids, [batch, length]) = read_ids(&args.tokens)?;
    note_long(&model, length, "give shorter ones", terminal)?;
    let engine = open_engine(common)?;
    let result = with_engine!(engine, e => run_tokens(e, &model, &ids, length, args.taps, PassOptions::default(), terminal))?;
    let mut tensors = vec![("logits".to_string(), result.logits)];
    for (layer, PerSite { attention, mlp }) in result.taps.into_iter().enumerate() {
        tensors.push((format!("layers.{layer}.attention"), attention));
        tensors.push((format!("layers.{layer}.mlp"), mlp));
    }
    let header = |(name, values): &(String, Vec<f32>)| TensorHeader {
        name: name.clone(),
        dtype: "F32".into(),
        shape: vec![batch, length, values.len() / (batch * length)],
        bytes: 4 * values.len(),
    };
    let headers: Vec<TensorHeader> = tensors.iter().map(header).collect();
    let mut writer = SafetensorsWriter::create(&output.path(), &headers, &BTreeMap::new())?;
    for (_, values) in &tensors {
        writer.write(bytemuck::cast_slice(values))?;
    }
    writer.finish()?;
    output.commit()?;
    let report =
        json!({"output": shown(&args.output), "shape": headers[0].shape, "tensors": tensors.len(), "device": engine.info().label()});
    terminal.result(&report, || format!("{}: logits {:?} and {} site inputs", args.output.display(), headers[0].shape, tensors.len() - 1))
}

/// `input_ids` and their shape.
fn read_ids(path: &Path) -> Result<(Vec<u32>, [usize; 2])> {
    let file = TensorFile::open(path)?;
    let wrong = |message: &str| Error::file(path, format!("`input_ids` {message}"));
    let info = file.info("input_ids").ok_or_else(|| wrong("is missing"))?;
    let &[batch, length] = info.shape.as_slice() else { return Err(wrong("must have the shape [batch, seq]").into()) };
    if batch * length == 0 || info.dtype != safetensors::Dtype::I64 {
        return Err(wrong("must be i64 and not empty").into());
    }
    let bytes = file.bytes("input_ids")?;
    let id = |b: &[u8; 8]| u32::try_from(i64::from_le_bytes(*b)).map_err(|_| wrong("holds a negative or too large id"));
    let ids = bytes.as_ref().as_chunks::<8>().0.iter().map(id).collect::<Result<Vec<_>, _>>()?;
    Ok((ids, [batch, length]))
}
