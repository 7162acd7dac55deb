//! Files of single layers beside the saves of an interrupted run, written once for all later saves: covariances of the dense model, weights
//! of the pruned one.

use super::layer::readers;
use crate::architecture::{Part, Site};
use crate::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader};
use crate::compaction::Replaced;
use crate::error::{Error, Result};
use crate::resume::ResumeState;
use crate::statistics::{self, Header, LayerStatistics, SiteCovariance, Statistics};
use crate::tensor::HostTensor;
use std::collections::BTreeMap;
use std::ops::Range;

/// Kinds of files.
const COVARIANCES: &str = "covariances";
const WEIGHTS: &str = "weights";

/// A layer's statistics with the covariances of its two sites.
pub fn with_covariances(layer: &LayerStatistics, covariances: [&SiteCovariance; 2]) -> LayerStatistics {
    let mut layer = layer.clone();
    Site::BOTH.into_iter().zip(covariances).for_each(|(site, covariance)| layer[site].covariance = Some(covariance.clone()));
    layer
}

/// Writes the covariances of the layers' sites, where they are not there yet. The header says that there are any.
pub fn keep_covariances(state: &ResumeState, header: &Header, layers: &[LayerStatistics], covariances: &[&SiteCovariance]) -> Result<()> {
    for (index, (layer, &own)) in layers.iter().zip(covariances.as_chunks().0).enumerate() {
        state.keep_layer(COVARIANCES, index, |path| statistics::write(path, header, &[with_covariances(layer, own)]))?;
    }
    Ok(())
}

/// Reads the covariances of so many layers back, site by site; the numbers stay in the mapped files. Of other layers nothing is to be left.
pub fn read_covariances(state: &ResumeState, layers: usize, all: usize) -> Result<Vec<SiteCovariance>> {
    state.forget_layers(COVARIANCES, layers..all);
    let mut found = Vec::new();
    for layer in 0..layers {
        let path = state.of_layer(COVARIANCES, layer);
        let Statistics { layers, .. } = statistics::read(&path)?;
        let covariances = layers.into_iter().flat_map(|layer| [layer.attention.covariance, layer.mlp.covariance]).flatten();
        found.extend(covariances);
        if found.len() != 2 * (layer + 1) {
            return Err(Error::file(&path, "has not one layer with its covariances"));
        }
    }
    Ok(found)
}

/// Removes the covariances of so many layers.
pub fn forget_covariances(state: &ResumeState, layers: usize) {
    state.forget_layers(COVARIANCES, 0..layers);
}

/// Writes the new tensors of fitted layers, where they are not there yet.
pub fn keep_weights(state: &ResumeState, layers: Range<usize>, replaced: &Replaced) -> Result<()> {
    for layer in layers {
        state.keep_layer(WEIGHTS, layer, |path| {
            let tensors: Vec<(Part, &HostTensor)> =
                Part::ALL.iter().filter_map(|&part| Some((part, replaced.get(&(layer, part))?))).collect();
            let header = |&(part, tensor): &(Part, &HostTensor)| TensorHeader {
                name: part.name(layer),
                dtype: tensor.dtype.name().into(),
                shape: vec![tensor.rows, tensor.columns],
                bytes: tensor.bytes.as_ref().len(),
            };
            let mut writer = SafetensorsWriter::create(path, &tensors.iter().map(header).collect::<Vec<_>>(), &BTreeMap::new())?;
            tensors.iter().try_for_each(|(_, tensor)| writer.write(tensor.bytes.as_ref()))?;
            writer.finish()
        })?;
    }
    Ok(())
}

/// Reads the weights of so many layers back; the numbers stay in the mapped files. Of other layers nothing is to be left.
pub fn read_weights(state: &ResumeState, layers: usize, all: usize) -> Result<Replaced> {
    state.forget_layers(WEIGHTS, layers..all);
    let mut replaced = Replaced::new();
    for layer in 0..layers {
        let path = state.of_layer(WEIGHTS, layer);
        for stored in TensorFile::open(&path)?.stored_tensors()? {
            let part = Part::ALL.into_iter().find(|part| part.name(layer) == stored.name);
            let part = part.ok_or_else(|| stored.error("is not a layer's"))?;
            replaced.insert((layer, part), stored.read()?);
        }
        let mut parts = Site::BOTH.into_iter().flat_map(|site| [readers(site), &<[Part; 2]>::from(site.writer())].concat());
        if let Some(part) = parts.find(|&part| !replaced.contains_key(&(layer, part))) {
            return Err(Error::file(&path, format!("has no tensor `{}`", part.name(layer))));
        }
    }
    Ok(replaced)
}
