//! What the families share: the LLaMA-shaped configuration, and the sizes that pruning has changed.

use super::{Architecture, LayerShape, Rope};
use crate::checkpoint::Config;
use crate::error::Result;
use serde_json::{Value, json};

/// The key of `config.json` under which a pruned model keeps what its family's own keys cannot say: the family
/// (`architecture`) and the sizes of every layer (`per_layer_config`).
pub const PRUNED_KEY: &str = "flap_gpu";

/// An architecture whose layers are all alike and have neither biases nor head norms nor a sliding window.
pub fn decoder(config: &Config, family: &'static str) -> Result<Architecture> {
    let hidden_size = config.size("hidden_size")?;
    let heads = config.size("num_attention_heads")?;
    let key_value_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    if heads % key_value_heads != 0 {
        return Err(config.error(format_args!("{heads} attention heads cannot be shared by {key_value_heads} key-value heads")));
    }
    let head_dim = head_dim(config)?;
    let layer = LayerShape::plain(heads, key_value_heads, config.size("intermediate_size")?);
    let layers = config.size("num_hidden_layers")?;
    if layers > 10_000 {
        return Err(config.error(format_args!("`num_hidden_layers` is {layers}; no such model exists")));
    }
    Ok(Architecture {
        family,
        hidden_size,
        vocabulary_size: config.size("vocab_size")?,
        head_dim,
        rms_norm_eps: config.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: Rope::read(config, head_dim)?,
        tied_embeddings: config.flag("tie_word_embeddings", false)?,
        layers: vec![layer; layers],
    })
}

/// Channels of a head.
pub fn head_dim(config: &Config) -> Result<usize> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let head_dim = match config.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => {
            return Err(
                config.error(format_args!("`hidden_size` {hidden_size} is not a multiple of {heads} heads, and `head_dim` is missing"))
            );
        }
    };
    if head_dim % 2 != 0 {
        return Err(config.error(format_args!("`head_dim` {head_dim} is odd; rotary embedding needs pairs of channels")));
    }
    Ok(head_dim)
}

/// The window of a configuration that says nothing of it, as in transformers; `null` is none.
pub fn window_or_default(config: &Config) -> Result<Option<usize>> {
    const DEFAULT_WINDOW: usize = 4096;
    if config.values().contains_key("sliding_window") { config.optional_size("sliding_window") } else { Ok(Some(DEFAULT_WINDOW)) }
}

/// Gives the layers that `layer_types` calls sliding, or from `max_window_layers` on where it is missing, their window; what is not said is
/// as in transformers.
pub fn apply_layer_windows(config: &Config, architecture: &mut Architecture) -> Result<()> {
    const DEFAULT_FIRST: u64 = 28;
    let window = window_or_default(config)?;
    if !config.flag("use_sliding_window", false)? || window.is_none() {
        return Ok(());
    }
    let types =
        config.get("layer_types").filter(|types| !types.is_null()).map(|types| layer_types(config, types, architecture.layers.len()));
    let types = types.transpose()?;
    let first = config.get("max_window_layers").map_or(Some(DEFAULT_FIRST), Value::as_u64);
    let first = first.ok_or_else(|| config.error("`max_window_layers` must be a number"))? as usize;
    for (index, layer) in architecture.layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or(index >= first, |types| types[index]);
        if slides {
            layer.sliding_window = window;
        }
    }
    Ok(())
}

/// Which of so many layers slide, as `layer_types` has it.
fn layer_types(config: &Config, types: &Value, layers: usize) -> Result<Vec<bool>> {
    let slides = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let listed: Option<Vec<bool>> = types.as_array().and_then(|types| types.iter().map(slides).collect());
    let wrong =
        || config.error(format_args!("`layer_types` is no list of \"full_attention\" or \"sliding_attention\" for {layers} layers"));
    listed.filter(|listed| listed.len() == layers).ok_or_else(wrong)
}

/// The sizes of all layers, as the `config.json` of a pruned model keeps them: by the layer's number, in the shape that transformers
/// gives per-layer overrides.
#[must_use]
pub fn per_layer_config(architecture: &Architecture) -> Value {
    let layer = |(index, shape): (usize, &LayerShape)| {
        let sizes = json!({
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "intermediate_size": shape.intermediate_size,
            "o_proj_bias": shape.o_bias,
            "down_proj_bias": shape.down_bias,
        });
        (index.to_string(), sizes)
    };
    Value::Object(architecture.layers.iter().enumerate().map(layer).collect())
}

/// Takes over the sizes that [`per_layer_config`] wrote.
pub fn apply_pruned_sizes(config: &Config, architecture: &mut Architecture) -> Result<()> {
    let Some(pruned) = config.optional_object(PRUNED_KEY)? else { return Ok(()) };
    let Some(layers) = pruned.optional_object("per_layer_config")? else { return Ok(()) };
    for (index, shape) in architecture.layers.iter_mut().enumerate() {
        let sizes = layers.optional_object(&index.to_string())?;
        let sizes = sizes.ok_or_else(|| config.error(format_args!("`{PRUNED_KEY}.per_layer_config` lacks layer {index}")))?;
        shape.heads = sizes.size("num_attention_heads")?;
        shape.key_value_heads = sizes.size("num_key_value_heads")?;
        shape.intermediate_size = sizes.size("intermediate_size")?;
        shape.o_bias = sizes.flag("o_proj_bias", shape.o_bias)?;
        shape.down_bias = sizes.flag("down_proj_bias", shape.down_bias)?;
        if shape.heads % shape.key_value_heads != 0 {
            return Err(
                config.error(format_args!("`{PRUNED_KEY}`: {} heads cannot share {} key-value heads", shape.heads, shape.key_value_heads))
            );
        }
    }
    Ok(())
}
