//! One decoder layer: pre-norm attention and pre-norm gated MLP on the residual stream.

use super::Site;
use crate::architecture::LayerShape;
use crate::engine::{AttentionShape, Engine};
use crate::error::Result;

/// A projection with its bias, if it has one.
pub struct Linear<E: Engine> {
    /// `[out, in]`.
    pub weight: E::Matrix,
    /// `[out]`.
    pub bias: Option<E::Tensor>,
}

impl<E: Engine> Linear<E> {
    fn apply(&self, engine: &E, x: &E::Tensor) -> Result<E::Tensor> {
        engine.linear(x, &self.weight, self.bias.as_ref())
    }
}

/// Weights of a layer on the device.
#[allow(missing_docs, reason = "the fields are named as the tensors are")]
pub struct LayerWeights<E: Engine> {
    pub shape: LayerShape,
    pub head_dim: usize,
    pub eps: f32,
    pub input_norm: E::Tensor,
    pub q_proj: Linear<E>,
    pub k_proj: Linear<E>,
    pub v_proj: Linear<E>,
    pub q_norm: Option<E::Tensor>,
    pub k_norm: Option<E::Tensor>,
    pub o_proj: Linear<E>,
    pub post_attention_norm: E::Tensor,
    pub gate_proj: Linear<E>,
    pub up_proj: Linear<E>,
    pub down_proj: Linear<E>,
}

impl<E: Engine> LayerWeights<E> {
    /// The projection that reads a site.
    #[must_use]
    pub fn projection(&self, site: Site) -> &Linear<E> {
        match site {
            Site::Attention => &self.o_proj,
            Site::Mlp => &self.down_proj,
        }
    }
}

/// Sees, and may change, what passes a site.
pub trait Observer<E: Engine> {
    /// Called with the site's activations `[tokens, channels]`.
    fn observe(&mut self, engine: &E, site: Site, x: &mut E::Tensor) -> Result<()>;
}

/// Observes nothing.
pub struct Unobserved;

impl<E: Engine> Observer<E> for Unobserved {
    fn observe(&mut self, _: &E, _: Site, _: &mut E::Tensor) -> Result<()> {
        Ok(())
    }
}

/// Runs windows of `window_tokens` tokens through a layer, in place: `hidden_states` is `[tokens, hidden]`, `rope` the table of
/// at least `window_tokens` positions.
pub fn decoder_layer<E: Engine>(
    engine: &E,
    layer: &LayerWeights<E>,
    rope: &E::Tensor,
    hidden_states: &mut E::Tensor,
    window_tokens: usize,
    observer: &mut impl Observer<E>,
) -> Result<()> {
    let x = engine.rms_norm(hidden_states, &layer.input_norm, layer.eps)?;
    let mut q = layer.q_proj.apply(engine, &x)?;
    let mut k = layer.k_proj.apply(engine, &x)?;
    let v = layer.v_proj.apply(engine, &x)?;
    drop(x);
    if let Some(weight) = &layer.q_norm {
        q = engine.rms_norm(&q, weight, layer.eps)?;
    }
    if let Some(weight) = &layer.k_norm {
        k = engine.rms_norm(&k, weight, layer.eps)?;
    }
    engine.rope(&mut q, rope, window_tokens)?;
    engine.rope(&mut k, rope, window_tokens)?;
    let shape = AttentionShape {
        window_tokens,
        heads: layer.shape.heads,
        key_value_heads: layer.shape.key_value_heads,
        head_dim: layer.head_dim,
        sliding_window: layer.shape.sliding_window,
    };
    let mut attention = engine.attention(&q, &k, &v, shape)?;
    drop((q, k, v));
    observer.observe(engine, Site::Attention, &mut attention)?;
    engine.add(hidden_states, &layer.o_proj.apply(engine, &attention)?)?;
    drop(attention);

    let x = engine.rms_norm(hidden_states, &layer.post_attention_norm, layer.eps)?;
    let mut mlp = layer.gate_proj.apply(engine, &x)?;
    engine.swiglu(&mut mlp, &layer.up_proj.apply(engine, &x)?)?;
    drop(x);
    observer.observe(engine, Site::Mlp, &mut mlp)?;
    engine.add(hidden_states, &layer.down_proj.apply(engine, &mlp)?)
}
