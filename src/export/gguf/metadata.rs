//! What a GGUF file says about its model, except for the vocabulary.

use super::{GgufType, Runner, Source};
use crate::architecture::{Architecture, LayerShape};
use crate::checkpoint::gguf::{Metadata, Value};
use crate::error::Result;
use crate::export::Origin;

/// Positions of a model that does not say how many.
const DEFAULT_POSITIONS: usize = 2048;

/// All keys; notes for the user are added to `notes`.
pub fn keys(
    source: &Source,
    architecture: &Architecture,
    runner: Runner,
    gguf_type: GgufType,
    notes: &mut Vec<String>,
) -> Result<Metadata> {
    let mut keys = general(source, runner, gguf_type);
    let mut positions = source.model.config.optional_size("max_position_embeddings")?.unwrap_or(DEFAULT_POSITIONS);
    let window = architecture.layers.iter().filter_map(|layer| layer.sliding_window).min();
    if let Some(window) = window.filter(|&window| window < positions) {
        // Within the window every token sees all before it, with or without a window.
        notes.push(format!("llama.cpp knows no sliding window here: the GGUF file's context is limited to the window, {window} tokens"));
        positions = window;
    }
    let size = |value: usize| Value::U32(value as u32);
    let per_layer = |size: fn(&LayerShape) -> usize| {
        let sizes: Vec<usize> = architecture.layers.iter().map(size).collect();
        let alike = sizes.iter().all(|&size| size == sizes[0]);
        if alike { Value::U32(sizes[0] as u32) } else { Value::integers(sizes.iter().map(|&size| size as i32)) }
    };
    let own = [
        ("vocab_size", size(architecture.vocabulary_size)),
        ("context_length", size(positions)),
        ("embedding_length", size(architecture.hidden_size)),
        ("block_count", size(architecture.layers.len())),
        ("feed_forward_length", per_layer(|l| l.intermediate_size)),
        ("attention.head_count", per_layer(|l| l.heads)),
        ("attention.head_count_kv", per_layer(|l| l.key_value_heads)),
        // Said outright, or they are guessed from the first layer's heads.
        ("attention.key_length", size(architecture.head_dim)),
        ("attention.value_length", size(architecture.head_dim)),
        ("rope.dimension_count", size(architecture.head_dim)),
        ("rope.freq_base", Value::F32(architecture.rope.theta as f32)),
        ("attention.layer_norm_rms_epsilon", Value::F32(architecture.rms_norm_eps)),
    ];
    let mut own = Vec::from(own);
    if let Some(long) = &architecture.rope.long {
        own.push(("rope.scaling.type", Value::text("longrope")));
        own.push(("rope.scaling.original_context_length", size(long.original_positions)));
    }
    if architecture.rope.amplitude != 1.0 {
        own.push(("rope.scaling.attn_factor", Value::F32(architecture.rope.amplitude as f32)));
    }
    keys.extend(own.into_iter().map(|(key, value)| (format!("{}.{key}", runner.name), value)));
    Ok(keys)
}

fn general(source: &Source, runner: Runner, gguf_type: GgufType) -> Metadata {
    let origin = Origin::of(&source.model.path);
    let mut keys = vec![
        ("general.architecture".to_string(), Value::text(runner.name)),
        ("general.type".into(), Value::text("model")),
        ("general.name".into(), Value::text(source.name)),
    ];
    for (key, value) in origin.licence {
        let key = match key.as_str() {
            "license_name" => "general.license.name",
            "license_link" => "general.license.link",
            _ => "general.license",
        };
        keys.push((key.into(), Value::text(value)));
    }
    keys.push(("general.base_model.count".into(), Value::U32(1)));
    keys.push(("general.base_model.0.name".into(), Value::text(origin.name)));
    keys.push(("general.file_type".into(), Value::U32(gguf_type.file_type())));
    keys.push(("general.quantization_version".into(), Value::U32(2)));
    keys.push(("flap_gpu.version".into(), Value::text(env!("CARGO_PKG_VERSION"))));
    // Of the dense model, which a pruned one's plan knows.
    let fingerprint = source.plan.map_or_else(|| source.model.fingerprint(), |plan| plan.model.fingerprint.clone());
    keys.push(("flap_gpu.source_fingerprint".into(), Value::text(fingerprint)));
    if let Some(plan) = source.plan {
        let settings = serde_json::to_string(&plan.settings).unwrap_or_default();
        keys.push(("flap_gpu.settings".into(), Value::text(settings)));
        if let Some(calibration) = &plan.calibration {
            keys.push(("flap_gpu.calibration".into(), Value::text(serde_json::to_string(calibration).unwrap_or_default())));
        }
        keys.push(("flap_gpu.ratio_reached".into(), Value::F64(plan.ratio_reached)));
        keys.push(("flap_gpu.edited".into(), Value::Bool(plan.is_edited())));
    }
    keys
}
