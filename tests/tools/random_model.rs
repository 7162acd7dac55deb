//! Writes a LLaMA-shaped model folder with random weights, to measure time and memory at the size of real models:
//!
//! `cargo run --release --example random-model -- DIR [--layers 4] [--hidden 4096] [--mlp 11008] [--heads 32] [--kv-heads 32]`
//!
//! The tokenizer is the one of the demo's model, so any text can be used with it. Weights are f16 and uniform, scaled so that
//! activations keep their size from layer to layer; the same arguments give the same bytes.

use flap_gpu::architecture::Architecture;
use flap_gpu::checkpoint::{Config, SafetensorsWriter, TensorHeader};
use flap_gpu::disk::files;
use flap_gpu::export::folder;
use flap_gpu::tensor::{Dtype, narrowed};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: random-model DIR [--layers 4] [--hidden 4096] [--mlp 11008] [--heads 32] [--kv-heads 32]";

const VOCABULARY: usize = 512;

/// Reproducible numbers in [-1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut sizes = BTreeMap::from([("--layers", 4), ("--hidden", 4096), ("--mlp", 11008), ("--heads", 32), ("--kv-heads", 32)]);
    let mut folder = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match sizes.get_mut(argument.as_str()) {
            Some(size) => *size = arguments.next().ok_or("a number is missing")?.parse()?,
            None if argument.starts_with("--") || folder.is_some() => return Err(USAGE.into()),
            None => folder = Some(PathBuf::from(argument)),
        }
    }
    let folder = folder.ok_or(USAGE)?;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/model");
    let output = folder::create(&folder, &[&demo], false)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float16",
        "hidden_size": sizes["--hidden"], "intermediate_size": sizes["--mlp"], "num_hidden_layers": sizes["--layers"],
        "num_attention_heads": sizes["--heads"], "num_key_value_heads": sizes["--kv-heads"], "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
    });
    files::write_json(&output.path().join("config.json"), &config)?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(demo.join(name), output.path().join(name))?;
    }
    write_weights(output.path())?;
    output.commit()?;
    Ok(())
}

fn write_weights(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let architecture = Architecture::describe(&Config::read(folder)?)?;
    let hidden = architecture.hidden_size;
    let mut tensors = vec![("model.embed_tokens.weight".to_string(), vec![VOCABULARY, hidden])];
    for layer in 0..architecture.layers.len() {
        tensors.extend(architecture.layer_tensors(layer).into_iter().map(|t| (t.part.name(layer), t.shape())));
    }
    tensors.push(("model.norm.weight".into(), vec![hidden]));
    tensors.push(("lm_head.weight".into(), vec![VOCABULARY, hidden]));
    let header = |(name, shape): &(String, Vec<usize>)| TensorHeader {
        name: name.clone(),
        dtype: "F16".into(),
        shape: shape.clone(),
        bytes: 2 * shape.iter().product::<usize>(),
    };
    let headers: Vec<TensorHeader> = tensors.iter().map(header).collect();
    let mut writer = SafetensorsWriter::create(&folder.join("model.safetensors"), &headers, &BTreeMap::new())?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (_, shape) in &tensors {
        // Norms are 1; a row of n uniform weights in [-a, a) with a = sqrt(3 / n) keeps the size of its input.
        let (offset, size) = if shape.len() == 1 { (1.0, 0.0) } else { (0.0, (3.0 / shape[1] as f32).sqrt()) };
        let mut left: usize = shape.iter().product();
        while left > 0 {
            let part = left.min(1 << 20);
            let numbers: Vec<f32> = (0..part).map(|_| offset + size * random.next()).collect();
            writer.write(&narrowed(Dtype::F16, &numbers).expect("small numbers"))?;
            left -= part;
        }
    }
    writer.finish()?;
    Ok(())
}
