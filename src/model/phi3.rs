//! The matrices of a Phi-3 checkpoint that hold the rows of several projections, taken apart: each part is a stretch of the map.

use crate::architecture::{Architecture, Part};
use crate::checkpoint::Tensors;
use crate::error::Result;
use std::collections::HashMap;

/// The matrices of a layer, and the parts whose rows they hold one after the other.
const FUSED: [(&str, &[Part]); 2] = [
    ("self_attn.qkv_proj.weight", &[Part::QueryProjection, Part::KeyProjection, Part::ValueProjection]),
    ("mlp.gate_up_proj.weight", &[Part::GateProjection, Part::UpProjection]),
];

/// The checkpoint's tensors, one for each part.
pub fn split(tensors: Tensors, architecture: &Architecture) -> Result<Tensors> {
    let mut fused = HashMap::new();
    for layer in 0..architecture.layers.len() {
        let known = architecture.layer_tensors(layer);
        for (suffix, parts) in FUSED {
            let rows = known.iter().filter(|tensor| parts.contains(&tensor.part)).map(|tensor| (tensor.part.name(layer), tensor.rows));
            fused.insert(format!("model.layers.{layer}.{suffix}"), rows.collect::<Vec<_>>());
        }
    }
    tensors.split(|name| fused.remove(name))
}
