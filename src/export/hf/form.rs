//! What `config.json` says about a pruned model, and who can load it: a class of transformers itself where one fits, else the code
//! that is written beside the weights.

use crate::architecture::{Architecture, LayerShape, PRUNED_KEY, per_layer_config};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::export::folder::CODE;
use serde_json::{Map, Value, json};

/// The content of the code file.
pub const CODE_TEXT: &str = include_str!("modeling_flap_gpu.py");

/// Families, the name of their model type, and the beginning of their classes' names.
const MODEL_TYPES: [(&str, &str, &str); 5] = [
    LLAMA,
    ("MistralForCausalLM", "mistral", "Mistral"),
    QWEN2,
    ("Qwen3ForCausalLM", "qwen3", "Qwen3"),
    ("SmolLM3ForCausalLM", "smollm3", "SmolLM3"),
];
const LLAMA: (&str, &str, &str) = ("LlamaForCausalLM", "llama", "Llama");
const QWEN2: (&str, &str, &str) = ("Qwen2ForCausalLM", "qwen2", "Qwen2");
/// Keys of other families that a LLaMA has not.
const NOT_LLAMA: [&str; 6] =
    ["sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "no_rope_layers", "no_rope_layer_interval"];

/// A folder's configuration.
pub struct Form {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// The structure that a reader of it sees: the pruned model's, perhaps with more biases.
    pub architecture: Architecture,
    /// Whether the code beside the weights loads it.
    pub remote_code: bool,
    /// Whether all layers are alike.
    uniform: bool,
}

impl Form {
    /// What the user should know.
    pub fn note(&self) -> Option<String> {
        let reason = if self.uniform { "its biases or its number of heads have" } else { "its layers differ in size, which has" };
        self.remote_code.then(|| {
            format!("{reason} no class in transformers: load the folder with trust_remote_code=True ({CODE} is beside the weights)")
        })
    }
}

/// Chooses the form of a pruned model whose source has `config`.
pub fn form(config: &Config, pruned: &Architecture) -> Result<Form> {
    let uniform = pruned.is_uniform();
    let config = &current_names(config);
    if uniform {
        let plain = plain_config(config, pruned);
        let biased = with_biases(&plain, pruned);
        for candidate in [plain, biased.clone(), as_llama(&biased)] {
            let candidate = Config::new(config.path().to_owned(), candidate);
            let architecture = Architecture::describe(&candidate)?;
            if loads(&architecture, pruned) {
                return Ok(Form { config: candidate.values().clone(), architecture, remote_code: false, uniform });
            }
        }
    }
    let &(family, model_type, class) = MODEL_TYPES.iter().find(|known| known.0 == pruned.family).expect("every family is in the table");
    let mut values = config.values().clone();
    let module = CODE.trim_end_matches(".py");
    values.insert("architectures".into(), json!([format!("FlapGpu{class}ForCausalLM")]));
    values.insert("model_type".into(), json!(format!("flap_gpu_{model_type}")));
    let auto_map = json!({
        "AutoConfig": format!("{module}.FlapGpu{class}Config"),
        "AutoModelForCausalLM": format!("{module}.FlapGpu{class}ForCausalLM"),
    });
    values.insert("auto_map".into(), auto_map);
    values.insert(PRUNED_KEY.into(), json!({"architecture": family, "per_layer_config": per_layer_config(pruned)}));
    Ok(Form { config: values, architecture: pruned.clone(), remote_code: true, uniform })
}

/// The configuration in the words of today's transformers, which no longer knows `su` for longrope, and in those of its versions before 5,
/// which look for rotary embedding elsewhere; without the slices in which those before 4.48 multiplied on request: they left biases out.
fn current_names(config: &Config) -> Config {
    let mut values = config.values().clone();
    values.get_mut("pretraining_tp").into_iter().for_each(|slices| *slices = json!(1));
    if let Some(Value::Object(scaling)) = values.get_mut("rope_scaling") {
        for key in ["type", "rope_type"] {
            scaling.get_mut(key).filter(|kind| *kind == "su").into_iter().for_each(|kind| *kind = json!("longrope"));
        }
    }
    if let Some(Value::Object(mut parameters)) = values.get("rope_parameters").cloned() {
        if let Some(theta) = parameters.shift_remove("rope_theta") {
            values.entry("rope_theta").or_insert(theta);
        }
        if parameters.get("rope_type").is_some_and(|kind| kind != "default") {
            values.entry("rope_scaling").or_insert(Value::Object(parameters));
        }
    }
    Config::new(config.path().to_owned(), values)
}

/// The source's configuration with the first layer's sizes for all.
fn plain_config(config: &Config, pruned: &Architecture) -> Map<String, Value> {
    let mut values = config.values().clone();
    let first = &pruned.layers[0];
    for key in [PRUNED_KEY, "auto_map"] {
        values.shift_remove(key);
    }
    let model_type = MODEL_TYPES.iter().find(|known| known.0 == pruned.family).map(|known| known.1);
    values.insert("architectures".into(), json!([pruned.family]));
    values.insert("model_type".into(), json!(model_type));
    values.insert("num_attention_heads".into(), json!(first.heads));
    values.insert("num_key_value_heads".into(), json!(first.key_value_heads));
    values.insert("intermediate_size".into(), json!(first.intermediate_size));
    values.insert("head_dim".into(), json!(pruned.head_dim));
    values
}

/// The same with the biases that some families can have on every projection.
fn with_biases(plain: &Map<String, Value>, pruned: &Architecture) -> Map<String, Value> {
    let mut values = plain.clone();
    let any = |flag: fn(&LayerShape) -> bool| pruned.layers.iter().any(flag);
    values.insert("attention_bias".into(), json!(any(|l| l.qkv_bias || l.o_bias)));
    values.insert("mlp_bias".into(), json!(any(|l| l.gate_up_bias || l.down_bias)));
    values
}

/// The same as a LLaMA.
fn as_llama(biased: &Map<String, Value>) -> Map<String, Value> {
    let mut values = biased.clone();
    NOT_LLAMA.iter().for_each(|key| {
        values.shift_remove(*key);
    });
    values.insert("architectures".into(), json!([LLAMA.0]));
    values.insert("model_type".into(), json!(LLAMA.1));
    values
}

/// Whether transformers builds, for a configuration that describes `candidate`, the pruned model, perhaps with more biases.
fn loads(candidate: &Architecture, pruned: &Architecture) -> bool {
    let heads = candidate.layers[0].heads;
    // Earlier versions know no `head_dim` in its Qwen2.
    if candidate.family == QWEN2.0 && candidate.hidden_size != heads * candidate.head_dim {
        return false;
    }
    // Its LLaMA refuses a width that is not a multiple of the heads, although `head_dim` is given.
    if candidate.family == LLAMA.0 && !candidate.hidden_size.is_multiple_of(heads) {
        return false;
    }
    let covers = |(candidate, pruned): (&LayerShape, &LayerShape)| {
        let with_biases = LayerShape {
            qkv_bias: candidate.qkv_bias | pruned.qkv_bias,
            o_bias: candidate.o_bias | pruned.o_bias,
            gate_up_bias: candidate.gate_up_bias | pruned.gate_up_bias,
            down_bias: candidate.down_bias | pruned.down_bias,
            ..pruned.clone()
        };
        *candidate == with_biases
    };
    let same = Architecture { family: pruned.family, layers: pruned.layers.clone(), ..candidate.clone() } == *pruned;
    same && candidate.layers.iter().zip(&pruned.layers).all(covers)
}
