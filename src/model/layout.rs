//! The tensors of a checkpoint that is opened as another family's, as that one has them: matrices that hold the rows of several projections
//! taken apart, each part a stretch of the map, the rows of heads in their order, and what scales a stream as part of the weights.

use super::{EMBEDDING, FINAL_NORM};
use crate::architecture::{Architecture, Part, Relative};
use crate::checkpoint::Tensors;
use crate::error::Result;
use std::collections::HashMap;

/// The matrices of a layer, and the parts whose rows they hold one after the other.
const FUSED: [(&str, &[Part]); 2] = [
    ("self_attn.qkv_proj.weight", &[Part::QueryProjection, Part::KeyProjection, Part::ValueProjection]),
    ("mlp.gate_up_proj.weight", &[Part::GateProjection, Part::UpProjection]),
];

/// The checkpoint's tensors, one for each part.
pub fn unified(tensors: Tensors, architecture: &Architecture, relative: &Relative) -> Result<Tensors> {
    let (mut fused, mut parts) = (HashMap::new(), HashMap::new());
    for layer in 0..architecture.layers.len() {
        let known = architecture.layer_tensors(layer);
        for (suffix, parts) in FUSED {
            let rows = known.iter().filter(|tensor| parts.contains(&tensor.part)).map(|tensor| (tensor.part.name(layer), tensor.rows));
            fused.insert(format!("model.layers.{layer}.{suffix}"), rows.collect::<Vec<_>>());
        }
        parts.extend(known.iter().map(|tensor| (tensor.part.name(layer), tensor.part)));
    }
    let scales = &relative.scales;
    Ok(tensors.split(|name| fused.remove(name))?.changed(|tensor| match parts.get(&tensor.name) {
        Some(Part::QueryProjection | Part::QueryBias) => {
            (tensor.heads, tensor.scale) = (relative.heads.map(|heads| heads[0]), scales.query);
        }
        Some(Part::KeyProjection | Part::KeyBias) => {
            (tensor.heads, tensor.scale) = (relative.heads.map(|heads| heads[1]), scales.key);
        }
        Some(Part::OutputProjection | Part::OutputBias | Part::DownProjection | Part::DownBias) => tensor.scale = scales.writers,
        None if tensor.name == EMBEDDING => tensor.scale = scales.embedding,
        None if tensor.name == FINAL_NORM => tensor.scale = scales.final_norm,
        _ => {}
    }))
}
