//! The projections that read the residual stream for a site, in the layer that is being fitted.

use crate::architecture::Part;
use crate::engine::{Engine, HostTensor};
use crate::error::Result;
use crate::forward::{LayerWeights, Site};
use crate::model::Model;

/// The projections that read the residual stream for a site.
pub fn readers(site: Site) -> &'static [Part] {
    match site {
        Site::Attention => &[Part::QueryProjection, Part::KeyProjection, Part::ValueProjection],
        Site::Mlp => &[Part::GateProjection, Part::UpProjection],
    }
}

/// Brings a site's readers to the device.
pub fn place_readers<E: Engine>(engine: &E, own: &mut LayerWeights<E>, site: Site, read: &[HostTensor]) -> Result<()> {
    let places = match site {
        Site::Attention => vec![&mut own.q_proj, &mut own.k_proj, &mut own.v_proj],
        Site::Mlp => vec![&mut own.gate_proj, &mut own.up_proj],
    };
    for (place, host) in places.into_iter().zip(read) {
        place.weight = engine.upload_matrix(host)?;
    }
    Ok(())
}

/// Cuts the readers' biases to the units that stay, `of` before.
pub fn cut_biases<E: Engine>(
    engine: &E,
    model: &Model,
    layer: usize,
    site: Site,
    own: &mut LayerWeights<E>,
    kept: &[usize],
    of: usize,
) -> Result<()> {
    let places = match site {
        Site::Attention => vec![(&mut own.q_proj, Part::QueryBias), (&mut own.k_proj, Part::KeyBias), (&mut own.v_proj, Part::ValueBias)],
        Site::Mlp => vec![(&mut own.gate_proj, Part::GateBias), (&mut own.up_proj, Part::UpBias)],
    };
    for (place, part) in places {
        if let Some(bias) = model.bias(layer, part)? {
            let run = bias.len() / of;
            let cut: Vec<f32> = kept.iter().flat_map(|&unit| bias[unit * run..(unit + 1) * run].iter().copied()).collect();
            place.bias = Some(engine.upload(&cut, cut.len())?);
        }
    }
    Ok(())
}
