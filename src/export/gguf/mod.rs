//! A GGUF file that an unmodified llama.cpp runs: architecture `llama` where all layers are alike, `deci` (the same graph with sizes
//! per layer) where they differ, `qwen3` for models with norms on query and key heads, `smollm3` for those without
//! rotary embedding in every fourth layer.

mod encode;
mod metadata;
mod normalising;
mod stripping;
mod vocabulary;

use crate::architecture::{Architecture, LayerShape, ROPE_FACTORS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, Rope};
use crate::checkpoint::Storage;
use crate::checkpoint::gguf::{GgufHeader, GgufWriter, q8_0};
use crate::compaction::{CompactModel, CompactTensor};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{EMBEDDING, FINAL_NORM, HEAD, Model};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::tensor::Dtype;
use encode::Encoder;
use std::path::Path;

/// Number format of a file's matrices; vectors are f32 in every file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names are those of the formats")]
pub enum GgufType {
    #[value(name = "f32")]
    F32,
    #[default]
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    Bf16,
    /// 8 bits and a scale for every 32 numbers
    #[value(name = "q8_0")]
    Q8_0,
}

impl GgufType {
    /// The name in a file's name.
    #[must_use]
    pub fn name(self) -> String {
        self.storage(q8_0::BLOCK).name().to_string()
    }

    /// Bytes of so many numbers of matrices.
    #[must_use]
    pub fn bytes(self, numbers: u64) -> u64 {
        match self {
            Self::F32 => 4 * numbers,
            Self::F16 | Self::Bf16 => 2 * numbers,
            Self::Q8_0 => q8_0::bytes(numbers as usize) as u64,
        }
    }

    /// The number under `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
        }
    }

    /// How a matrix with rows of `columns` numbers is stored: f16 where the rows are no whole blocks.
    fn storage(self, columns: usize) -> Storage {
        match self {
            Self::F32 => Storage::Plain(Dtype::F32),
            Self::Bf16 => Storage::Plain(Dtype::Bf16),
            Self::Q8_0 if columns.is_multiple_of(q8_0::BLOCK) => Storage::Q8_0,
            Self::F16 | Self::Q8_0 => Storage::Plain(Dtype::F16),
        }
    }
}

/// Where a file's metadata comes from.
pub struct Source<'a> {
    /// The dense model, or one that was pruned before.
    pub model: &'a Model,
    /// Name of what is written.
    pub name: &'a str,
    /// How it was pruned, if it was.
    pub plan: Option<&'a Plan>,
}

/// The architecture that llama.cpp runs a model as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Runner {
    /// Its name.
    name: &'static str,
    /// Whether query and key rows are stored as interleaved pairs.
    interleaved: bool,
}

/// llama.cpp leaves every fourth layer of its `smollm3` without rotary embedding.
const STILL_INTERVAL: usize = 4;

impl Runner {
    fn of(architecture: &Architecture) -> Result<Self> {
        let uniform = architecture.is_uniform();
        let layers = &architecture.layers;
        if layers.iter().all(LayerShape::is_llama) {
            return Ok(Self { name: if uniform { "llama" } else { "deci" }, interleaved: true });
        }
        let (qk_norm, turns) = (layers.iter().any(|l| l.qk_norm), layers.iter().all(|l| l.rotary));
        let what = if qk_norm { "with norms on query and key heads" } else { "without rotary embedding in some layers" };
        let refused = |but: &str| Err(Error::Unsupported(format!("llama.cpp has no architecture {what} {but}")));
        if !uniform {
            return refused("whose layers differ in size: plan with `--uniform --compensation none` (or `--for llama.cpp`)");
        }
        if layers.iter().any(|l| l.qkv_bias || l.o_bias || l.gate_up_bias || l.down_bias) {
            return refused("that also has biases: plan with `--compensation none` (or `--for llama.cpp`)");
        }
        if !architecture.rope.is_plain() {
            return refused("that also scales its rotary frequencies");
        }
        // Which layers those are is not in the file.
        if !turns && (qk_norm || (0..layers.len()).any(|i| layers[i].rotary == (i + 1).is_multiple_of(STILL_INTERVAL))) {
            return refused("other than every fourth");
        }
        Ok(if qk_norm { Self { name: "qwen3", interleaved: false } } else { Self { name: "smollm3", interleaved: true } })
    }
}

/// Fails, with the reason, if no architecture of llama.cpp runs a model of this structure, or it has no name for the dense model's tokenizer.
pub fn check(architecture: &Architecture, dense: &Model) -> Result<()> {
    Runner::of(architecture)?;
    for tensor in &CompactModel::whole(dense).tensors {
        if !follows(tensor) {
            header(tensor, GgufType::default())?;
        }
    }
    vocabulary::keys(dense, "").map(|_| ())
}

/// Whether a tensor has no place in a file because the metadata say the same: rotary frequencies.
fn follows(tensor: &CompactTensor) -> bool {
    tensor.name.ends_with(".rotary_emb.inv_freq")
}

/// Writes the file `path`. Returns what the user should know.
pub fn write(source: &Source, compact: &CompactModel, gguf_type: GgufType, path: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    let architecture = &compact.architecture;
    let runner = Runner::of(architecture)?;
    let vocabulary::Keys { metadata, name, mut notes } = vocabulary::keys(source.model, source.name)?;
    let source = &Source { name: &name, ..*source };
    let mut keys = metadata::keys(source, architecture, runner, gguf_type, &mut notes)?;
    keys.extend(metadata);
    let factors = rope_factors(&architecture.rope);
    let of_pairs = |(name, factors): &(&str, Vec<f64>)| GgufHeader {
        name: (*name).into(),
        shape: vec![factors.len()],
        storage: Storage::Plain(Dtype::F32),
    };
    let mut headers: Vec<GgufHeader> = factors.iter().map(of_pairs).collect();
    let mut tensors = Vec::new();
    for tensor in &compact.tensors {
        if !follows(tensor) {
            headers.push(header(tensor, gguf_type)?);
            tensors.push(tensor);
        }
    }
    notes.extend(not_in_blocks(&headers, gguf_type));
    let mut writer = GgufWriter::create(path, &keys, &headers)?;
    progress.start("writing GGUF", "bytes", headers.iter().map(|h| h.bytes() as u64).sum());
    for (_, factors) in factors {
        factors.iter().try_for_each(|&factor| writer.write(&(factor as f32).to_le_bytes()))?;
        writer.end_tensor()?;
    }
    let to_write = &headers[headers.len() - tensors.len()..];
    for (tensor, header) in tensors.into_iter().zip(to_write) {
        interrupt::check()?;
        let rotary = runner.interleaved && tensor.part.is_some_and(|(_, part)| part.is_rotary());
        let mut encoder = Encoder::new(tensor, &header.storage, rotary.then_some(architecture.head_dim), &mut writer)?;
        tensor.write(&mut |bytes| encoder.push(bytes))?;
        encoder.finish()?;
        writer.end_tensor()?;
        progress.advance(header.bytes() as u64);
    }
    writer.finish()?;
    progress.finish();
    Ok(notes)
}

/// Says which matrices are in f16 where blocks were asked for.
fn not_in_blocks(headers: &[GgufHeader], gguf_type: GgufType) -> Option<String> {
    let left: Vec<&str> =
        headers.iter().filter(|h| matches!(h.storage, Storage::Plain(Dtype::F16))).map(|header| header.name.as_str()).collect();
    let first = left.first().filter(|_| gguf_type == GgufType::Q8_0)?;
    let (count, block) = (left.len(), q8_0::BLOCK);
    let pruned = left.iter().any(|name| name.contains("ffn_down"));
    let remedy = if pruned { format!("; `--round-neurons {block}` leaves MLPs whole blocks") } else { String::new() };
    Some(format!(
        "{count} of the GGUF file's matrices are F16, as their rows are no multiple of {block} numbers: {first} is the first{remedy}"
    ))
}

/// The tensors that divide rotary frequencies, where something does.
fn rope_factors(rope: &Rope) -> Vec<(&'static str, Vec<f64>)> {
    let own = rope.factors_of(&rope.frequencies);
    match &rope.long {
        Some(long) => vec![(ROPE_FACTORS_LONG, rope.factors_of(&long.frequencies)), (ROPE_FACTORS_SHORT, own)],
        None if own.iter().any(|&factor| factor != 1.0) => vec![(ROPE_FACTORS, own)],
        None => Vec::new(),
    }
}

fn header(tensor: &CompactTensor, gguf_type: GgufType) -> Result<GgufHeader> {
    let name = match (tensor.part, tensor.name.as_str()) {
        (Some((layer, part)), _) => part.gguf_name(layer),
        (None, EMBEDDING) => "token_embd.weight".into(),
        (None, FINAL_NORM) => "output_norm.weight".into(),
        (None, HEAD) => "output.weight".into(),
        (None, other) => return Err(Error::Unsupported(format!("tensor `{other}` has no place in a GGUF file of this architecture"))),
    };
    let storage = match tensor.shape[..] {
        [_, columns] => gguf_type.storage(columns),
        _ => Storage::Plain(Dtype::F32),
    };
    Ok(GgufHeader { name, shape: tensor.shape.clone(), storage })
}
