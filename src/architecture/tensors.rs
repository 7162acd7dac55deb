//! Names and shapes of a decoder layer's tensors, in one table: loading checks by it, compaction cuts by it.

use super::Architecture;

/// The part a tensor plays in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the tensors")]
pub enum Part {
    InputNorm,
    QueryProjection,
    QueryBias,
    KeyProjection,
    KeyBias,
    ValueProjection,
    ValueBias,
    QueryNorm,
    KeyNorm,
    OutputProjection,
    OutputBias,
    PostAttentionNorm,
    GateProjection,
    GateBias,
    UpProjection,
    UpBias,
    DownProjection,
    DownBias,
}

impl Part {
    fn suffix(self) -> &'static str {
        match self {
            Self::InputNorm => "input_layernorm.weight",
            Self::QueryProjection => "self_attn.q_proj.weight",
            Self::QueryBias => "self_attn.q_proj.bias",
            Self::KeyProjection => "self_attn.k_proj.weight",
            Self::KeyBias => "self_attn.k_proj.bias",
            Self::ValueProjection => "self_attn.v_proj.weight",
            Self::ValueBias => "self_attn.v_proj.bias",
            Self::QueryNorm => "self_attn.q_norm.weight",
            Self::KeyNorm => "self_attn.k_norm.weight",
            Self::OutputProjection => "self_attn.o_proj.weight",
            Self::OutputBias => "self_attn.o_proj.bias",
            Self::PostAttentionNorm => "post_attention_layernorm.weight",
            Self::GateProjection => "mlp.gate_proj.weight",
            Self::GateBias => "mlp.gate_proj.bias",
            Self::UpProjection => "mlp.up_proj.weight",
            Self::UpBias => "mlp.up_proj.bias",
            Self::DownProjection => "mlp.down_proj.weight",
            Self::DownBias => "mlp.down_proj.bias",
        }
    }

    /// Every part.
    pub const ALL: [Self; 18] = [
        Self::InputNorm,
        Self::QueryProjection,
        Self::QueryBias,
        Self::KeyProjection,
        Self::KeyBias,
        Self::ValueProjection,
        Self::ValueBias,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::OutputProjection,
        Self::OutputBias,
        Self::PostAttentionNorm,
        Self::GateProjection,
        Self::GateBias,
        Self::UpProjection,
        Self::UpBias,
        Self::DownProjection,
        Self::DownBias,
    ];

    fn gguf_suffix(self) -> &'static str {
        match self {
            Self::InputNorm => "attn_norm.weight",
            Self::QueryProjection => "attn_q.weight",
            Self::QueryBias => "attn_q.bias",
            Self::KeyProjection => "attn_k.weight",
            Self::KeyBias => "attn_k.bias",
            Self::ValueProjection => "attn_v.weight",
            Self::ValueBias => "attn_v.bias",
            Self::QueryNorm => "attn_q_norm.weight",
            Self::KeyNorm => "attn_k_norm.weight",
            Self::OutputProjection => "attn_output.weight",
            Self::OutputBias => "attn_output.bias",
            Self::PostAttentionNorm => "ffn_norm.weight",
            Self::GateProjection => "ffn_gate.weight",
            Self::GateBias => "ffn_gate.bias",
            Self::UpProjection => "ffn_up.weight",
            Self::UpBias => "ffn_up.bias",
            Self::DownProjection => "ffn_down.weight",
            Self::DownBias => "ffn_down.bias",
        }
    }

    /// The tensor's name in a GGUF file.
    #[must_use]
    pub fn gguf_name(self, layer: usize) -> String {
        format!("blk.{layer}.{}", self.gguf_suffix())
    }

    /// The bias of a projection.
    #[must_use]
    pub fn bias(self) -> Option<Self> {
        Some(match self {
            Self::QueryProjection => Self::QueryBias,
            Self::KeyProjection => Self::KeyBias,
            Self::ValueProjection => Self::ValueBias,
            Self::OutputProjection => Self::OutputBias,
            Self::GateProjection => Self::GateBias,
            Self::UpProjection => Self::UpBias,
            Self::DownProjection => Self::DownBias,
            _ => return None,
        })
    }

    /// Whether the tensor's rows, or a bias' channels, are turned by rotary embedding.
    #[must_use]
    pub fn is_rotary(self) -> bool {
        matches!(self, Self::QueryProjection | Self::QueryBias | Self::KeyProjection | Self::KeyBias)
    }

    /// The tensor's name in a checkpoint.
    #[must_use]
    pub fn name(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.suffix())
    }
}

/// A tensor that a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerTensor {
    /// The part it plays.
    pub part: Part,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

impl LayerTensor {
    /// The shape as a checkpoint writes it.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        let vector = !self.part.suffix().ends_with("_proj.weight");
        if vector { vec![self.columns] } else { vec![self.rows, self.columns] }
    }
}

impl Architecture {
    /// The tensors of a layer.
    #[must_use]
    pub fn layer_tensors(&self, layer: usize) -> Vec<LayerTensor> {
        use Part::*;
        let shape = &self.layers[layer];
        let (hidden, mlp) = (self.hidden_size, shape.intermediate_size);
        let (query, key) = (shape.heads * self.head_dim, shape.key_value_heads * self.head_dim);
        let all = [
            (true, InputNorm, 1, hidden),
            (true, QueryProjection, query, hidden),
            (shape.qkv_bias, QueryBias, 1, query),
            (true, KeyProjection, key, hidden),
            (shape.qkv_bias, KeyBias, 1, key),
            (true, ValueProjection, key, hidden),
            (shape.qkv_bias, ValueBias, 1, key),
            (shape.qk_norm, QueryNorm, 1, self.head_dim),
            (shape.qk_norm, KeyNorm, 1, self.head_dim),
            (true, OutputProjection, hidden, query),
            (shape.o_bias, OutputBias, 1, hidden),
            (true, PostAttentionNorm, 1, hidden),
            (true, GateProjection, mlp, hidden),
            (shape.gate_up_bias, GateBias, 1, mlp),
            (true, UpProjection, mlp, hidden),
            (shape.gate_up_bias, UpBias, 1, mlp),
            (true, DownProjection, hidden, mlp),
            (shape.down_bias, DownBias, 1, hidden),
        ];
        all.into_iter().filter(|t| t.0).map(|(_, part, rows, columns)| LayerTensor { part, rows, columns }).collect()
    }
}
