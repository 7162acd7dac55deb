//! A decoder layer of a real model's shape, with calibration's moments taken at both sites.

use super::timing::{median_seconds, noise, random_matrix};
use crate::architecture::{LayerShape, PerSite, Site};
use crate::engine::{Engine, MomentsShape};
use crate::error::Result;
use crate::forward::{LayerWeights, Linear, Observer, decoder_layer};
use crate::tensor::Dtype;

/// Sizes of a model's layers.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Parameters of such a model.
    pub name: &'static str,
    pub hidden: usize,
    pub mlp: usize,
    pub heads: usize,
    pub key_value_heads: usize,
}

/// LLaMA models of three sizes.
pub const SHAPES: [Shape; 3] = [
    Shape { name: "1B", hidden: 2048, mlp: 8192, heads: 32, key_value_heads: 8 },
    Shape { name: "7B", hidden: 4096, mlp: 11008, heads: 32, key_value_heads: 32 },
    Shape { name: "70B", hidden: 8192, mlp: 28672, heads: 64, key_value_heads: 8 },
];

impl Shape {
    /// Floating-point operations of the matrix products for one token.
    pub fn flops_per_token(&self) -> f64 {
        let key_value = self.hidden * self.key_value_heads / self.heads;
        2.0 * (self.hidden * (2 * self.hidden + 2 * key_value + 3 * self.mlp)) as f64
    }
}

/// A layer ready to run.
pub struct LayerBench<'a, E: Engine> {
    engine: &'a E,
    shape: Shape,
    weights: LayerWeights<E>,
}

impl<'a, E: Engine> LayerBench<'a, E> {
    pub fn new(engine: &'a E, shape: Shape) -> Result<Self> {
        let head_dim = shape.hidden / shape.heads;
        let linear = |rows: usize, columns: usize| -> Result<Linear<E>> {
            Ok(Linear { weight: engine.upload_matrix(&random_matrix(rows, columns, Dtype::F16))?, bias: None })
        };
        let norm = || engine.upload(&vec![1.0; shape.hidden], shape.hidden);
        let key_value = shape.key_value_heads * head_dim;
        let weights = LayerWeights {
            shape: LayerShape::plain(shape.heads, shape.key_value_heads, shape.mlp),
            head_dim,
            eps: 1e-5,
            input_norm: norm()?,
            q_proj: linear(shape.hidden, shape.hidden)?,
            k_proj: linear(key_value, shape.hidden)?,
            v_proj: linear(key_value, shape.hidden)?,
            q_norm: None,
            k_norm: None,
            o_proj: linear(shape.hidden, shape.hidden)?,
            post_attention_norm: norm()?,
            gate_proj: linear(shape.mlp, shape.hidden)?,
            up_proj: linear(shape.mlp, shape.hidden)?,
            down_proj: linear(shape.hidden, shape.mlp)?,
        };
        Ok(Self { engine, shape, weights })
    }

    /// Median seconds of sending `windows` windows through.
    pub fn run(&self, windows: usize, window_tokens: usize, runs: usize) -> Result<f64> {
        let (engine, hidden) = (self.engine, self.shape.hidden);
        let moments = |channels| engine.moments(MomentsShape { channels, windows, window_tokens, windows_per_slot: windows });
        let mut observer = Moments::<E>(PerSite { attention: moments(hidden)?, mlp: moments(self.shape.mlp)? });
        let rope = engine.upload(&noise(window_tokens * self.weights.head_dim), self.weights.head_dim)?;
        let states = engine.upload(&noise(windows * window_tokens * hidden), hidden)?;
        median_seconds(engine, runs, || {
            // A fresh stream each time: one that went through the layer again and again would grow beyond all bounds.
            let mut hidden_states = engine.copy(&states)?;
            decoder_layer(engine, &self.weights, &rope, &mut hidden_states, window_tokens, &mut observer)
        })
    }
}

struct Moments<E: Engine>(PerSite<E::Moments>);

impl<E: Engine> Observer<E> for Moments<E> {
    fn observe(&mut self, engine: &E, site: Site, x: &mut E::Tensor) -> Result<()> {
        engine.accumulate(&mut self.0[site], x, 0)
    }
}
