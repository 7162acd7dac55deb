//! A layer on the device that is being pruned, site by site.

use super::products::times_vector;
use super::weights::{row, to_bytes, to_matrix};
use crate::architecture::{Part, Site};
use crate::compaction::Slice;
use crate::disk::Scratch;
use crate::engine::Engine;
use crate::error::Result;
use crate::forward::{LayerWeights, Linear};
use crate::model::Model;
use crate::search::places;
use crate::tensor::{Dtype, HostTensor};
use faer::MatRef;

/// What a recipe makes of the projection that a site feeds, for the channels that stay; in the checkpoint's number format.
#[derive(Clone)]
pub struct Fitted {
    /// `[outputs, kept channels]`.
    pub weight: HostTensor,
    /// `[1, outputs]`.
    pub bias: HostTensor,
}

impl Fitted {
    /// Weights `[outputs, kept channels]` as `dtype` holds them, and the bias with which kept channels of mean `kept_mean` give `target`, the
    /// mean of the outputs: it makes up for the rounding of the weights as well. Both are kept in a temporary file.
    pub fn keep(
        scratch: &mut Scratch,
        weight: MatRef<'_, f64>,
        target: &[f64],
        kept_mean: &[f64],
        dtype: Dtype,
        what: &str,
    ) -> Result<Self> {
        let weight = scratch.keep(&to_bytes(weight, dtype, what)?, dtype, weight.nrows(), weight.ncols())?;
        let reached = times_vector(to_matrix(&weight).as_ref(), kept_mean);
        let bias: Vec<f64> = target.iter().zip(reached).map(|(target, reached)| target - reached).collect();
        let bias = scratch.keep(&to_bytes(row(&bias).as_ref(), dtype, what)?, dtype, 1, bias.len())?;
        Ok(Self { weight, bias })
    }

    /// Puts it in its place in a layer.
    pub fn place<E: Engine>(&self, engine: &E, own: &mut LayerWeights<E>, site: Site) -> Result<()> {
        let bias = engine.upload(&self.bias.to_f32(), self.bias.columns)?;
        let projection = Linear { weight: engine.upload_matrix(&self.weight)?, bias: Some(bias) };
        match site {
            Site::Attention => own.o_proj = projection,
            Site::Mlp => own.down_proj = projection,
        }
        Ok(())
    }
}

/// The projections that read the residual stream for a site.
pub fn readers(site: Site) -> &'static [Part] {
    match site {
        Site::Attention => &[Part::QueryProjection, Part::KeyProjection, Part::ValueProjection],
        Site::Mlp => &[Part::GateProjection, Part::UpProjection],
    }
}

/// The same in a layer on the device.
fn reader_places<E: Engine>(own: &mut LayerWeights<E>, site: Site) -> Vec<&mut Linear<E>> {
    match site {
        Site::Attention => vec![&mut own.q_proj, &mut own.k_proj, &mut own.v_proj],
        Site::Mlp => vec![&mut own.gate_proj, &mut own.up_proj],
    }
}

/// Brings a site's readers to the device.
pub fn place_readers<E: Engine>(engine: &E, own: &mut LayerWeights<E>, site: Site, read: &[HostTensor]) -> Result<()> {
    for (place, host) in reader_places(own, site).into_iter().zip(read) {
        place.weight = engine.upload_matrix(host)?;
    }
    Ok(())
}

/// Cuts a site's readers to the units that stay, in a layer where the site is whole, and gives them back.
pub fn cut_readers<E: Engine>(
    engine: &E,
    model: &Model,
    layer: usize,
    site: Site,
    own: &mut LayerWeights<E>,
    kept: &[bool],
    read: &[HostTensor],
) -> Result<Vec<HostTensor>> {
    let places = places(kept);
    let cut = |host: &HostTensor| Slice::whole([host.rows, host.columns]).rows(&places, host.rows / kept.len()).cut(host);
    let cut = read.iter().map(cut).collect::<Result<Vec<_>>>()?;
    place_readers(engine, own, site, &cut)?;
    cut_biases(engine, model, layer, site, own, &places, kept.len())?;
    if site == Site::Attention {
        let group = own.shape.group_size();
        (own.shape.key_value_heads, own.shape.heads) = (places.len(), places.len() * group);
    } else {
        own.shape.intermediate_size = places.len();
    }
    Ok(cut)
}

/// Cuts the readers' biases to the units that stay, `of` before.
fn cut_biases<E: Engine>(
    engine: &E,
    model: &Model,
    layer: usize,
    site: Site,
    own: &mut LayerWeights<E>,
    kept: &[usize],
    of: usize,
) -> Result<()> {
    for (place, reader) in reader_places(own, site).into_iter().zip(readers(site)) {
        if let Some(bias) = reader.bias().map(|part| model.bias(layer, part)).transpose()?.flatten() {
            let run = bias.len() / of;
            let cut: Vec<f32> = kept.iter().flat_map(|&unit| bias[unit * run..(unit + 1) * run].iter().copied()).collect();
            place.bias = Some(engine.upload(&cut, cut.len())?);
        }
    }
    Ok(())
}
