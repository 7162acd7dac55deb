//! One decoder layer: pre-norm attention and pre-norm gated MLP on the residual stream.

use crate::architecture::{Architecture, LayerShape, Part, Site};
use crate::engine::{AttentionShape, Engine};
use crate::error::Result;
use crate::tensor::HostTensor;

/// A projection with its bias, if it has one.
pub struct Linear<E: Engine> {
    /// `[out, in]`.
    pub weight: E::Matrix,
    /// `[out]`.
    pub bias: Option<E::Tensor>,
}

impl<E: Engine> Linear<E> {
    /// `x W^T + bias`.
    pub fn apply(&self, engine: &E, x: &E::Tensor) -> Result<E::Tensor> {
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
    /// Brings a layer to the device; `read` gives the parts that it has.
    ///
    /// # Panics
    /// If `read` gives no norm or no projection.
    pub fn upload(
        engine: &E,
        architecture: &Architecture,
        layer: usize,
        read: impl Fn(Part) -> Result<Option<HostTensor>>,
    ) -> Result<Self> {
        let vector = |part: Part| -> Result<Option<E::Tensor>> { read(part)?.map(|t| engine.upload(&t.to_f32(), t.columns)).transpose() };
        let norm = |part: Part| -> Result<E::Tensor> { Ok(vector(part)?.expect("every layer has its norms")) };
        let linear = |part: Part, bias: Part| -> Result<Linear<E>> {
            let weight = read(part)?.expect("every layer has its projections");
            Ok(Linear { weight: engine.upload_matrix(&weight)?, bias: vector(bias)? })
        };
        Ok(Self {
            shape: architecture.layers[layer].clone(),
            head_dim: architecture.head_dim,
            eps: architecture.rms_norm_eps,
            input_norm: norm(Part::InputNorm)?,
            q_proj: linear(Part::QueryProjection, Part::QueryBias)?,
            k_proj: linear(Part::KeyProjection, Part::KeyBias)?,
            v_proj: linear(Part::ValueProjection, Part::ValueBias)?,
            q_norm: vector(Part::QueryNorm)?,
            k_norm: vector(Part::KeyNorm)?,
            o_proj: linear(Part::OutputProjection, Part::OutputBias)?,
            post_attention_norm: norm(Part::PostAttentionNorm)?,
            gate_proj: linear(Part::GateProjection, Part::GateBias)?,
            up_proj: linear(Part::UpProjection, Part::UpBias)?,
            down_proj: linear(Part::DownProjection, Part::DownBias)?,
        })
    }

    /// The projection that writes a site's activations back into the residual stream.
    #[must_use]
    pub fn writer(&self, site: Site) -> &Linear<E> {
        match site {
            Site::Attention => &self.o_proj,
            Site::Mlp => &self.down_proj,
        }
    }

    /// The residual stream as a site's block reads it.
    pub fn normalise(&self, engine: &E, site: Site, hidden_states: &E::Tensor) -> Result<E::Tensor> {
        let weight = match site {
            Site::Attention => &self.input_norm,
            Site::Mlp => &self.post_attention_norm,
        };
        engine.rms_norm(hidden_states, weight, self.eps)
    }

    /// The activations `[tokens, channels]` of a site, from the residual stream before its block.
    pub fn site_input(
        &self,
        engine: &E,
        site: Site,
        rope: &E::Tensor,
        hidden_states: &E::Tensor,
        window_tokens: usize,
    ) -> Result<E::Tensor> {
        let x = self.normalise(engine, site, hidden_states)?;
        if site == Site::Mlp {
            let mut mlp = self.gate_proj.apply(engine, &x)?;
            engine.swiglu(&mut mlp, &self.up_proj.apply(engine, &x)?)?;
            return Ok(mlp);
        }
        let mut q = self.q_proj.apply(engine, &x)?;
        let mut k = self.k_proj.apply(engine, &x)?;
        let v = self.v_proj.apply(engine, &x)?;
        drop(x);
        if let Some(weight) = &self.q_norm {
            q = engine.rms_norm(&q, weight, self.eps)?;
        }
        if let Some(weight) = &self.k_norm {
            k = engine.rms_norm(&k, weight, self.eps)?;
        }
        if self.shape.rotary {
            engine.rope(&mut q, rope, window_tokens)?;
            engine.rope(&mut k, rope, window_tokens)?;
        }
        let shape = AttentionShape {
            window_tokens,
            heads: self.shape.heads,
            key_value_heads: self.shape.key_value_heads,
            head_dim: self.head_dim,
            sliding_window: self.shape.sliding_window,
        };
        engine.attention(&q, &k, &v, shape)
    }

    /// Sends the residual stream through a site, in place: `observe` sees, and may change, the site's activations before they are
    /// projected back into it.
    pub fn pass_site(
        &self,
        engine: &E,
        site: Site,
        rope: &E::Tensor,
        hidden_states: &mut E::Tensor,
        window_tokens: usize,
        observe: impl FnOnce(&mut E::Tensor) -> Result<()>,
    ) -> Result<()> {
        let mut x = self.site_input(engine, site, rope, hidden_states, window_tokens)?;
        observe(&mut x)?;
        engine.add(hidden_states, &self.writer(site).apply(engine, &x)?)
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
    for site in Site::BOTH {
        layer.pass_site(engine, site, rope, hidden_states, window_tokens, |x| observer.observe(engine, site, x))?;
    }
    Ok(())
}
