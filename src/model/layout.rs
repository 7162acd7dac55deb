//! The tensors of a checkpoint that is opened as another family's, as that one has them: matrices that hold the rows of several projections
//! taken apart, each part a stretch of the map, and the rows of heads in their order.

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
    let (mut fused, mut heads) = (HashMap::new(), HashMap::new());
    for layer in 0..architecture.layers.len() {
        let known = architecture.layer_tensors(layer);
        for (suffix, parts) in FUSED {
            let rows = known.iter().filter(|tensor| parts.contains(&tensor.part)).map(|tensor| (tensor.part.name(layer), tensor.rows));
            fused.insert(format!("model.layers.{layer}.{suffix}"), rows.collect::<Vec<_>>());
        }
        if let Some([query, key]) = relative.heads {
            let of = |part: Part| if matches!(part, Part::QueryProjection | Part::QueryBias) { query } else { key };
            let rotary = known.iter().map(|tensor| tensor.part).filter(|part| part.is_rotary());
            heads.extend(rotary.map(|part| (part.name(layer), of(part))));
        }
    }
    Ok(tensors.split(|name| fused.remove(name))?.with_head_rows(|name| heads.remove(name)))
}
