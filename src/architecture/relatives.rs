//! Families that are a LLaMA, Mistral or Qwen2 but for how their checkpoints write it: other words for the same settings, matrices that hold
//! several projections, another order of a head's rows. They are opened as such a model, and written as one.

use super::{Rope, llama, mistral, qwen2};
use crate::checkpoint::{Config, HeadRows};
use crate::error::Result;
use serde_json::{Value, json};

/// A checkpoint of such a family.
pub struct Relative {
    /// The family, as `architectures` names it.
    family: &'static str,
    /// The configuration as that of the model it is opened as.
    pub config: Config,
    /// How the rows of each query head and of each key head are stored, where it is another way.
    pub heads: Option<[HeadRows; 2]>,
    /// By what weights are to be multiplied.
    pub scales: Scales,
}

/// Factors of weights that stand for factors of activations.
#[derive(Debug, Clone, Copy)]
pub struct Scales {
    /// Of the embedding, which may be the head as well.
    pub embedding: f32,
    /// Of the query projections.
    pub query: f32,
    /// Of the key projections.
    pub key: f32,
    /// Of the projections that write into the residual stream.
    pub writers: f32,
    /// Of the final norm.
    pub final_norm: f32,
}

/// What of a family differs from the model it is opened as.
struct Differences {
    opened_as: &'static str,
    /// Settings under the names of that model, or with this family's own default; null is none.
    settings: Vec<(&'static str, Value)>,
    /// Whether neighbouring channels of a head turn together, instead of those half a head apart.
    interleaved: bool,
    /// Share of a head's channels that turn, unless the configuration says it; none where it has no say.
    turned: Option<f64>,
    scales: Scales,
}

impl Differences {
    /// None but the name, and matrices that hold several projections.
    fn none(opened_as: &'static str) -> Self {
        let scales = Scales { embedding: 1.0, query: 1.0, key: 1.0, writers: 1.0, final_norm: 1.0 };
        Self { opened_as, settings: Vec::new(), interleaved: false, turned: None, scales }
    }
}

type Differ = fn(&Config) -> Result<Differences>;

/// The families and what differs.
const RELATIVES: [(&str, Differ); 6] = [
    ("Phi3ForCausalLM", phi3),
    ("Ernie4_5ForCausalLM", ernie),
    ("Ernie4_5_ForCausalLM", ernie),
    ("GlmForCausalLM", glm),
    ("GraniteForCausalLM", granite),
    ("HeliumForCausalLM", helium),
];

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    RELATIVES.iter().map(|known| known.0)
}

impl Relative {
    /// What a configuration of one of these families stands for; none if it is of another.
    pub fn of(config: &Config) -> Result<Option<Self>> {
        let name = super::family(config);
        let Some(&(family, differ)) = RELATIVES.iter().find(|known| Some(known.0) == name) else { return Ok(None) };
        // The models that they are opened as have another default.
        config.number("rms_norm_eps")?;
        let Differences { opened_as, settings, interleaved, turned, scales } = differ(config)?;
        let mut values = config.values().clone();
        values.insert("architectures".into(), json!([opened_as]));
        for (key, value) in settings {
            if value.is_null() {
                values.shift_remove(key);
            } else {
                values.insert(key.into(), value);
            }
        }
        let config = Config::new(config.path().to_owned(), values);
        let head_dim = super::common::head_dim(&config)?;
        let all = HeadRows { head_dim, turned: head_dim, interleaved, still_scale: 1.0 };
        let share = match turned {
            Some(turned) => super::rope::turned_share(&config)?.unwrap_or(turned),
            None => 1.0,
        };
        if share == 1.0 {
            return Ok(Some(Self { family, config, heads: interleaved.then_some([all; 2]), scales }));
        }
        let turned = (head_dim as f64 * share) as usize;
        if !turned.is_multiple_of(2) || !(2..head_dim).contains(&turned) {
            return Err(
                config.error(format_args!("`partial_rotary_factor` {share} leaves {turned} of {head_dim} channels of a head to turn"))
            );
        }
        let (config, amplitude) = turning_all(&config, head_dim, turned)?;
        let query = HeadRows { turned, ..all };
        // Cosines and sines of all channels are multiplied by the amplitude then, and a product of queries and keys twice.
        let key = HeadRows { still_scale: 1.0 / (amplitude * amplitude) as f32, ..query };
        Ok(Some(Self { family, config, heads: Some([query, key]), scales }))
    }

    /// What the user should know about it.
    #[must_use]
    pub fn remark(&self) -> String {
        let Self { family, config, heads, scales } = self;
        let opened_as = super::family(config).unwrap_or_default();
        let still = heads.map_or(1.0, |[_, key]| key.still_scale);
        // Powers of two round nothing.
        let rounds = [still, scales.query, scales.writers, scales.final_norm].iter().any(|scale| scale.log2().fract() != 0.0);
        let but = if rounds { "; weights that are rescaled for that are rounded once more" } else { "" };
        format!("{family} is opened, and written, as the {opened_as} that it is but for how its checkpoint writes it{but}")
    }
}

/// The configuration of a model that turns all channels of a head, those that `config` leaves still by next to nothing; and the amplitude.
fn turning_all(config: &Config, head_dim: usize, turned: usize) -> Result<(Config, f64)> {
    /// Angle per position: none over any context, and a number that f32 holds.
    const STILL: f64 = 1e-30;
    let mut values = config.values().clone();
    values.shift_remove("partial_rotary_factor");
    for key in ["rope_parameters", "rope_scaling"] {
        let parameters = values.get_mut(key).and_then(Value::as_object_mut);
        parameters.and_then(|parameters| parameters.shift_remove("partial_rotary_factor"));
    }
    let rope = Rope::read(&Config::new(config.path().to_owned(), values.clone()), turned)?;
    let factors = |frequencies: &[f64]| {
        let still = std::iter::repeat_n(&STILL, (head_dim - turned) / 2);
        rope.factors_of(&frequencies.iter().chain(still).copied().collect::<Vec<_>>())
    };
    let long = rope.long.as_ref();
    let original_positions = long.map_or_else(|| config.size("max_position_embeddings"), |long| Ok(long.original_positions))?;
    values.shift_remove("rope_parameters");
    values.insert("rope_theta".into(), json!(rope.theta));
    values.insert("original_max_position_embeddings".into(), json!(original_positions));
    let scaling = json!({
        "rope_type": "longrope",
        "short_factor": factors(&rope.frequencies),
        "long_factor": factors(long.map_or(&rope.frequencies, |long| &long.frequencies)),
        "attention_factor": rope.amplitude,
        // Programs look for it in one place or the other.
        "original_max_position_embeddings": original_positions,
    });
    values.insert("rope_scaling".into(), scaling);
    Ok((Config::new(config.path().to_owned(), values), rope.amplitude))
}

/// Phi-3 and Phi-4, with matrices that hold several projections, of which the smallest turn three quarters of a head.
fn phi3(config: &Config) -> Result<Differences> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    // Where all positions lie within the window there is none.
    let positions = config.optional_size("max_position_embeddings")?.unwrap_or(usize::MAX);
    let slides = config.optional_size("sliding_window")?.is_some_and(|window| window < positions);
    let mut settings = Vec::new();
    let longrope = super::rope::parameters(config)?.is_some_and(|parameters| parameters.get("short_factor").is_some());
    if longrope && config.get(ORIGINAL).is_none() {
        settings.push((ORIGINAL, json!(4096)));
    }
    if !slides {
        settings.push(("sliding_window", Value::Null));
    }
    let opened_as = if slides { mistral::FAMILY } else { llama::FAMILY };
    Ok(Differences { settings, turned: Some(1.0), ..Differences::none(opened_as) })
}

/// ERNIE 4.5 without experts.
fn ernie(config: &Config) -> Result<Differences> {
    if config.optional_number("compression_ratio")?.is_some_and(|ratio| ratio != 1.0) {
        return Err(config.error("`compression_ratio`: positions that are not counted one by one are not supported"));
    }
    let bias = config.flag("use_bias", false)?;
    let tied = config.flag("tie_word_embeddings", true)?;
    let own = vec![("attention_bias", json!(bias)), ("mlp_bias", json!(bias)), ("tie_word_embeddings", json!(tied))];
    let settings = [own, sizes(config)?, theta(config, 500_000.0)?].concat();
    Ok(Differences { settings, interleaved: true, ..Differences::none(llama::FAMILY) })
}

/// GLM-4 and GLM-Edge, which turn half of a head, with one matrix for gate and up projection.
fn glm(config: &Config) -> Result<Differences> {
    let opened_as = if config.flag("attention_bias", true)? { qwen2::FAMILY } else { llama::FAMILY };
    Ok(Differences { settings: sizes(config)?, interleaved: true, turned: Some(0.5), ..Differences::none(opened_as) })
}

/// Granite without experts, with factors of activations. Its stream is taken at another size, as norms do not see it but for their epsilon:
/// at the one that makes the embedding's factor a power of two, which rounds nothing, and the writers' nearly one, so that quantised weights
/// keep the range that number formats are made for.
fn granite(config: &Config) -> Result<Differences> {
    const FACTORS: [&str; 4] = ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"];
    let mut factors = [1.0; 4];
    for (factor, key) in factors.iter_mut().zip(FACTORS) {
        *factor = config.optional_number(key)?.unwrap_or(*factor);
    }
    let [embedding, residual, attention, logits] = factors;
    let near = |factor: f64| factor.log2().round().exp2();
    let scaled_embedding = near(embedding / residual);
    let size = scaled_embedding / embedding;
    let mut settings = FACTORS.map(|key| (key, Value::Null)).to_vec();
    settings.push(("rms_norm_eps", json!(config.number("rms_norm_eps")? * size * size)));
    // Others scale by the root of a head's size.
    let scores = attention * (super::common::head_dim(config)? as f64).sqrt();
    let key = near(scores.sqrt());
    let head = if config.flag("tie_word_embeddings", false)? { scaled_embedding } else { 1.0 };
    let scales = Scales {
        embedding: scaled_embedding as f32,
        query: (scores / key) as f32,
        key: key as f32,
        writers: (residual * size) as f32,
        final_norm: (1.0 / (logits * head)) as f32,
    };
    Ok(Differences { settings, scales, ..Differences::none(llama::FAMILY) })
}

/// Helium.
fn helium(config: &Config) -> Result<Differences> {
    if config.flag("attention_bias", false)? {
        return Err(config.error("`attention_bias`: a Helium with biases is not supported"));
    }
    let settings = [sizes(config)?, theta(config, 100_000.0)?].concat();
    Ok(Differences { settings, interleaved: true, ..Differences::none(llama::FAMILY) })
}

/// The sizes of heads that these three have where the configuration does not say them.
fn sizes(config: &Config) -> Result<Vec<(&'static str, Value)>> {
    config.size("num_key_value_heads")?;
    Ok(if config.values().contains_key("head_dim") { Vec::new() } else { vec![("head_dim", json!(128))] })
}

/// The base of the rotary frequencies where the configuration does not say it.
fn theta(config: &Config, default: f64) -> Result<Vec<(&'static str, Value)>> {
    Ok(if super::rope::says_theta(config)? { Vec::new() } else { vec![("rope_theta", json!(default))] })
}
