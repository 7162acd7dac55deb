//! The statistics file: safetensors with f64 vectors, and a header in its metadata that says what was measured on what.

use super::{CompatMoments, LayerStatistics, Moments, SiteCovariance, SiteStatistics, Spread, Statistics, TokenWeights, packed_length};
use crate::architecture::Site;
use crate::checkpoint::{SafetensorsWriter, TensorFile, TensorHeader};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, HostTensor};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

const FORMAT: &str = "flap-gpu-statistics";
const VERSION: u32 = 1;
const HEADER_KEY: &str = "header";
/// What the tokens count together, and the mean square of the stream.
const COVARIANCE_SCALES: &str = "covariance_scales";
const COVARIANCE_MEAN: &str = "covariance_mean";
const COVARIANCE: &str = "covariance";

/// What the numbers of a statistics file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Exact moments over all tokens.
    Exact,
    /// As the authors' code computes them.
    Compat,
}

/// Says which model, text and windows the statistics belong to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// Fingerprint of the model's weights.
    pub model: String,
    /// Fingerprint of the calibration text's token ids.
    pub text: String,
    /// Seed of the window starts.
    pub seed: u64,
    /// Windows drawn in all.
    pub samples: usize,
    /// Tokens of a window.
    pub sequence_length: usize,
    /// Exact or compat.
    pub mode: Mode,
    /// Windows measured: disjoint ranges in ascending order.
    pub windows: Vec<Range<usize>>,
    /// How tokens count in the covariances, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covariances: Option<TokenWeights>,
    /// Name of the text's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_file: Option<String>,
    /// What it was measured on, with the number format of the products.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Options of the command line, beside those that the other fields stand for, that the tokens, the order of sums or their operands depend
    /// on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Header {
    /// Tokens measured.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.windows.iter().map(|range| (range.len() * self.sequence_length) as u64).sum()
    }

    /// Whether all windows drawn were measured.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.windows.iter().map(ExactSizeIterator::len).sum::<usize>() == self.samples
    }

    /// What another calibration differs in: model, text, windows drawn, mode, or, if they count, the covariances.
    #[must_use]
    pub fn difference(&self, other: &Self, with_covariances: bool) -> Option<&'static str> {
        let drawn = |header: &Self| (header.seed, header.samples, header.sequence_length);
        let differences = [
            (self.model != other.model, "the model"),
            (self.text != other.text, "the calibration text or its tokenizer"),
            (drawn(self) != drawn(other), "seed, samples or sequence length"),
            (self.mode != other.mode, "mode (exact or --compat)"),
            (with_covariances && self.covariances != other.covariances, "--covariances or --token-weights"),
        ];
        differences.into_iter().find(|(differ, _)| *differ).map(|(_, what)| what)
    }

    /// Takes over another part's windows, if it belongs to the same calibration.
    pub fn join(&mut self, other: &Self) -> Result<()> {
        if let Some(what) = self.difference(other, true) {
            return Err(Error::input(format!("the statistics do not belong together: they differ in {what}")));
        }
        let mut windows: Vec<Range<usize>> = self.windows.iter().chain(&other.windows).cloned().collect();
        windows.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in windows {
            match joined.last_mut() {
                Some(last) if range.start < last.end => {
                    return Err(Error::input(format!("window {} was measured by two of the statistics", range.start)));
                }
                Some(last) if range.start == last.end => last.end = range.end,
                _ => joined.push(range),
            }
        }
        self.windows = joined;
        self.add_maker(other);
        Ok(())
    }

    /// Says that another run has measured a part, on its device and with its options: those are told that all had.
    pub fn add_maker(&mut self, other: &Self) {
        self.devices.extend(other.devices.iter().cloned());
        self.devices.sort();
        self.devices.dedup();
        // Each with its value.
        let options = std::mem::take(&mut self.options);
        let common = options.chunks(2).filter(|option| other.options.chunks(2).any(|others| others == *option));
        self.options = common.flatten().cloned().collect();
    }
}

/// The named vectors of a site.
fn vectors(site: &SiteStatistics) -> Vec<(&'static str, &[f64])> {
    let mut vectors: Vec<(&'static str, &[f64])> = vec![("mean", site.mean())];
    match &site.spread {
        Spread::Exact(moments) => vectors.push(("m2", &moments.m2)),
        Spread::Compat(moments) => vectors.extend([("fluctuation", moments.fluctuation.as_slice()), ("square", &moments.square)]),
    }
    vectors.extend([("weight_square_sum", site.weight_square_sum.as_slice()), ("weight_absolute_mean", &site.weight_absolute_mean)]);
    vectors
}

/// A tensor of the file.
enum Values<'a> {
    F64(&'a [f64]),
    Pair([f64; 2]),
    Packed(&'a HostTensor),
}

impl Values<'_> {
    fn length(&self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::Pair(values) => values.len(),
            Self::Packed(tensor) => tensor.columns,
        }
    }

    fn header(&self, name: &str) -> TensorHeader {
        let (dtype, size) = if matches!(self, Self::Packed(_)) { ("F32", 4) } else { ("F64", 8) };
        TensorHeader { name: name.into(), dtype: dtype.into(), shape: vec![self.length()], bytes: size * self.length() }
    }

    fn write(&self, writer: &mut SafetensorsWriter) -> Result<()> {
        let numbers = |values: &[f64]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
        match self {
            Self::F64(values) => writer.write(&numbers(values)),
            Self::Pair(values) => writer.write(&numbers(values)),
            Self::Packed(tensor) => writer.write(tensor.bytes.as_ref()),
        }
    }
}

/// Writes the statistics of some layers to a new file.
pub fn write(path: &Path, header: &Header, layers: &[LayerStatistics]) -> Result<()> {
    let mut tensors = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        for site in Site::BOTH {
            let name = |vector: &str| format!("layers.{index}.{}.{vector}", site.name());
            let own = &layer[site];
            tensors.extend(vectors(own).into_iter().map(|(vector, values)| (name(vector), Values::F64(values))));
            if let Some(covariance) = &own.covariance {
                tensors.push((name(COVARIANCE_SCALES), Values::Pair([covariance.weight, covariance.stream_square])));
                tensors.push((name(COVARIANCE_MEAN), Values::F64(&covariance.mean)));
                tensors.push((name(COVARIANCE), Values::Packed(&covariance.packed)));
            }
        }
    }
    let headers: Vec<TensorHeader> = tensors.iter().map(|(name, values)| values.header(name)).collect();
    let words = serde_json::to_string(header).map_err(|e| Error::file(path, e.to_string()))?;
    let metadata = BTreeMap::from([
        ("format".to_string(), FORMAT.to_string()),
        ("version".to_string(), VERSION.to_string()),
        ("layers".to_string(), layers.len().to_string()),
        ("tokens".to_string(), header.tokens().to_string()),
        (HEADER_KEY.to_string(), words),
    ]);
    let mut writer = SafetensorsWriter::create(path, &headers, &metadata)?;
    tensors.iter().try_for_each(|(_, values)| values.write(&mut writer))?;
    writer.finish()
}

/// Reads a statistics file.
pub fn read(path: &Path) -> Result<Statistics> {
    let file = TensorFile::open(path)?;
    let metadata = file.metadata();
    let value = |key: &str| metadata.get(key).map(String::as_str);
    if value("format") != Some(FORMAT) {
        return Err(Error::file(path, "is not a statistics file of `flap-gpu calibrate`"));
    }
    if value("version") != Some(&VERSION.to_string()) {
        return Err(Error::file(
            path,
            format!("has format version {}; this program reads {VERSION}", value("version").unwrap_or("(none)")),
        ));
    }
    let damaged = |what: &str| Error::file(path, format!("has a damaged header ({what}); run `flap-gpu calibrate` again"));
    let header: Header = serde_json::from_str(value(HEADER_KEY).unwrap_or_default()).map_err(|e| damaged(&e.to_string()))?;
    let layers: usize = value("layers").and_then(|n| n.parse().ok()).ok_or_else(|| damaged("layers"))?;
    let mut result = Vec::new();
    for layer in 0..layers {
        let site = |site: Site| -> Result<SiteStatistics> {
            let vector = |name: &str| -> Result<Vec<f64>> {
                let name = format!("layers.{layer}.{}.{name}", site.name());
                let values = file.f64_values(&name)?;
                if values.iter().any(|v| !v.is_finite()) {
                    return Err(Error::file(path, format!("tensor `{name}` holds NaN or infinity")));
                }
                Ok(values)
            };
            let mean = vector("mean")?;
            let spread = match header.mode {
                Mode::Exact => Spread::Exact(Moments { count: header.tokens(), mean, m2: vector("m2")? }),
                Mode::Compat => {
                    let windows = header.windows.iter().map(|r| r.len() as u64).sum();
                    Spread::Compat(CompatMoments { windows, mean, fluctuation: vector("fluctuation")?, square: vector("square")? })
                }
            };
            let statistics = SiteStatistics {
                spread,
                weight_square_sum: vector("weight_square_sum")?,
                weight_absolute_mean: vector("weight_absolute_mean")?,
                covariance: header.covariances.map(|_| covariance(&file, layer, site, header.tokens(), &vector)).transpose()?,
            };
            for (name, values) in vectors(&statistics) {
                if values.len() != statistics.channels() {
                    return Err(damaged("vectors of one site differ in length"));
                }
                // The fluctuation of the authors' code is no sum of squares.
                if !["mean", "fluctuation"].contains(&name) && values.iter().any(|&value| value < 0.0) {
                    return Err(damaged(&format!("negative numbers in `layers.{layer}.{}.{name}`", site.name())));
                }
            }
            if statistics.covariance.as_ref().is_some_and(|c| c.mean.len() != statistics.channels()) {
                return Err(damaged("a covariance of another size"));
            }
            Ok(statistics)
        };
        result.push(LayerStatistics::try_from_fn(site)?);
    }
    Ok(Statistics { header, layers: result })
}

/// The covariance of a site, which stays in the mapped file.
fn covariance(
    file: &TensorFile,
    layer: usize,
    site: Site,
    tokens: u64,
    vector: &dyn Fn(&str) -> Result<Vec<f64>>,
) -> Result<SiteCovariance> {
    let name = format!("layers.{layer}.{}.{COVARIANCE}", site.name());
    let wrong = |what: &str| Error::file(file.path(), format!("tensor `{name}` {what}; run `flap-gpu calibrate` again"));
    let mean = vector(COVARIANCE_MEAN)?;
    let scales = vector(COVARIANCE_SCALES)?;
    let &[weight, stream_square] = scales.as_slice() else { return Err(wrong("has not two scales")) };
    let bytes = file.bytes(&name)?;
    if bytes.as_ref().len() != 4 * packed_length(mean.len()) {
        return Err(wrong("has another size than its mean says"));
    }
    if !(weight > 0.0 && stream_square >= 0.0) {
        return Err(wrong("has scales that cannot be"));
    }
    let packed = HostTensor::new(bytes, Dtype::F32, 1, packed_length(mean.len()));
    Ok(SiteCovariance { tokens, weight, stream_square, mean, packed })
}
