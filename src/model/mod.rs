//! A model as the engines see it: the tensors of a folder or a GGUF file in the parts that the architecture gives them.

mod gguf;
mod layout;

use crate::architecture::{Architecture, LayerTensor, PRUNED_KEY, Part, Relative};
use crate::checkpoint::{Config, Storage, StoredTensor, Tensors, Tokenizer};
use crate::digest::hex;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::forward::{Head, LayerWeights};
use crate::interrupt;
use crate::tensor::{Dtype, HostTensor, widen};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Name of the embedding matrix.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the weight of the norm behind the last layer.
pub const FINAL_NORM: &str = "model.norm.weight";
/// Name of the language-model head, where it is not the embedding matrix.
pub const HEAD: &str = "lm_head.weight";
/// How the names of the layers' tensors begin.
const LAYERS: &str = "model.layers.";

/// An opened model. Nothing but headers has been read.
pub struct Model {
    /// The folder, or the GGUF file.
    pub path: PathBuf,
    /// `config.json`, or what would be in it.
    pub config: Config,
    /// Structure and sizes.
    pub architecture: Architecture,
    /// The mapped weights.
    pub tensors: Tensors,
    /// The `tokenizer.json` that a GGUF file holds.
    embedded_tokenizer: Option<String>,
    /// What it is opened as, if not as what its configuration says.
    remark: Option<String>,
}

impl Model {
    /// Opens a model folder, a GGUF file or a folder with one, and checks that every tensor is there in the right shape and format.
    pub fn open(path: &Path) -> Result<Self> {
        match crate::checkpoint::gguf::file_at(path) {
            Some(file) => gguf::open(&file)?.checked(),
            None => Self::open_folder(path),
        }
    }

    /// Opens a model folder, as pruning needs it.
    pub fn open_folder(path: &Path) -> Result<Self> {
        if crate::checkpoint::gguf::file_at(path).is_some() {
            return Err(Error::file(path, "is a GGUF file; give the model folder with safetensors that it was made from"));
        }
        if !path.exists() {
            return Err(Error::file(path, "does not exist; give a model's folder"));
        }
        if !path.is_dir() {
            return Err(Error::file(path, "is not a folder; give the folder that holds the model's config.json"));
        }
        let config = Config::read(path)?;
        let relative = Relative::of(&config)?;
        let config = relative.as_ref().map_or(config, |relative| relative.config.clone());
        let architecture = Architecture::describe(&config)?;
        let tensors = Tensors::open(path)?;
        let tensors = match &relative {
            Some(relative) => layout::unified(tensors, &architecture, relative)?,
            None => tensors,
        };
        let remark = relative.as_ref().map(Relative::remark);
        Self { path: path.to_owned(), config, architecture, tensors, embedded_tokenizer: None, remark }.checked()
    }

    /// What lies in the model's folder or configuration and is not taken into account, or taken for something else.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let adapter = self.path.join("adapter_config.json").exists();
        let code = self.config.get("auto_map").is_some() && self.config.get(PRUNED_KEY).is_none();
        let adapter =
            adapter.then(|| "the adapter in the model's folder is left aside: merge it first if it belongs to the model".to_string());
        let family = self.architecture.family;
        let code = code.then(|| format!("the model's own code (`auto_map` in config.json) is not run: it is taken for a {family}"));
        let names = self.tensors.entries().iter().map(|entry| entry.name.as_str());
        let others: Vec<&str> = names.filter(|name| !name.starts_with(LAYERS) && ![EMBEDDING, FINAL_NORM, HEAD].contains(name)).collect();
        let others = others.first().map(|first| {
            format!("tensors that a {family} does not have stay and are not computed with: {}, such as {first}", others.len())
        });
        adapter.into_iter().chain(code).chain(others).chain(self.remark.clone()).collect()
    }

    fn checked(self) -> Result<Self> {
        let model = self;
        for layer in 0..model.architecture.layers.len() {
            for tensor in model.architecture.layer_tensors(layer) {
                model.stored(layer, tensor)?;
            }
        }
        model.refuse_unknown_tensors()?;
        model.embedding()?;
        model.head_matrix()?;
        model.final_norm()?;
        model.without_tied_head()
    }

    /// Without the copy of the embedding that a tied model may have as its head. Programs do not agree on what it computes with another head.
    fn without_tied_head(mut self) -> Result<Self> {
        let head = self.tensors.entries().iter().find(|entry| entry.name == HEAD && self.architecture.tied_embeddings);
        let Some(head) = head else { return Ok(self) };
        if head.bytes.as_ref() == self.embedding()?.bytes.as_ref() {
            self.tensors = self.tensors.without(HEAD)?;
            return Ok(self);
        }
        Err(head.error(format_args!(
            "is another matrix than {EMBEDDING}, but config.json says `tie_word_embeddings`; say false there if the model has a head of its own, or \
             remove the tensor"
        )))
    }

    /// A tensor inside the layers that the family does not know would be ignored by the forward pass and cut by nobody.
    fn refuse_unknown_tensors(&self) -> Result<()> {
        let layers = 0..self.architecture.layers.len();
        let known: HashSet<String> =
            layers.flat_map(|layer| self.architecture.layer_tensors(layer).into_iter().map(move |t| t.part.name(layer))).collect();
        for entry in self.tensors.entries() {
            let name = entry.name.as_str();
            // Old checkpoints carry the rotary frequencies, which follow from config.json.
            if name.starts_with(LAYERS) && !name.ends_with(".rotary_emb.inv_freq") && !known.contains(name) {
                let family = self.architecture.family;
                return Err(entry.error(format_args!("is not part of a {family} as config.json describes it; this model cannot be pruned")));
            }
        }
        Ok(())
    }

    /// The model's own tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.embedded_tokenizer {
            Some(json) => Tokenizer::parse(&self.path, json),
            None if self.path.is_dir() => Tokenizer::open(&self.path),
            None => Err(Error::file(&self.path, "holds no tokenizer.json (key `tokenizer.huggingface.json`), so text cannot be tokenised")),
        }
    }

    /// A layer's tensor in its file.
    fn stored(&self, layer: usize, tensor: LayerTensor) -> Result<&StoredTensor> {
        self.tensors.get(&tensor.part.name(layer), &tensor.shape())
    }

    /// A layer's tensor, still in the map where its form allows that.
    pub fn layer_tensor(&self, layer: usize, tensor: LayerTensor) -> Result<HostTensor> {
        self.stored(layer, tensor)?.read()
    }

    /// The part's tensor of a layer, which must have it; fails if it holds NaN or infinity.
    pub fn part(&self, layer: usize, part: Part) -> Result<HostTensor> {
        let tensor = self.architecture.layer_tensors(layer).into_iter().find(|t| t.part == part);
        self.stored(layer, tensor.expect("every layer has its projections"))?.read_finite()
    }

    /// A bias of a layer, if it has it.
    pub fn bias(&self, layer: usize, part: Part) -> Result<Option<Vec<f32>>> {
        let tensor = self.architecture.layer_tensors(layer).into_iter().find(|t| t.part == part);
        tensor.map(|tensor| Ok(self.layer_tensor(layer, tensor)?.to_f32())).transpose()
    }

    /// Rounds the rotary frequencies to the weights' number format, as frameworks do when a whole model object is cast to 16 bits.
    /// Loading a checkpoint rounds none; this serves to compare with activations of such an object.
    pub fn cast_rope(&mut self) -> Result<()> {
        let dtype = self.embedding()?.read_rows(0..0)?.dtype;
        // Those of long windows are computed when one comes, and not rounded.
        self.architecture.rope.frequencies.iter_mut().for_each(|frequency| *frequency = f64::from(dtype.round(*frequency as f32)));
        Ok(())
    }

    /// Bytes of a layer's weights once they are read: quantised ones become f32.
    #[must_use]
    pub fn layer_bytes(&self, layer: usize) -> u64 {
        let read_size = |stored: &StoredTensor| if let Storage::Plain(dtype) = stored.storage { dtype.size() } else { Dtype::F32.size() };
        let tensors = self.architecture.layer_tensors(layer).into_iter();
        tensors.filter_map(|tensor| self.stored(layer, tensor).ok()).map(|stored| (stored.len() * read_size(stored)) as u64).sum()
    }

    fn embedding(&self) -> Result<&StoredTensor> {
        self.tensors.get(EMBEDDING, &[self.architecture.vocabulary_size, self.architecture.hidden_size])
    }

    fn final_norm(&self) -> Result<&StoredTensor> {
        self.tensors.get(FINAL_NORM, &[self.architecture.hidden_size])
    }

    fn head_matrix(&self) -> Result<&StoredTensor> {
        let name = if self.architecture.tied_embeddings { EMBEDDING } else { HEAD };
        self.tensors.get(name, &[self.architecture.vocabulary_size, self.architecture.hidden_size])
    }

    /// Embedding rows of `ids` as f32 `[ids, hidden]`, gathered from the map.
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let embedding = self.embedding()?;
        let columns = embedding.columns();
        let mut hidden_states = vec![0.0; ids.len() * columns];
        let rows = ids.par_iter().zip(hidden_states.par_chunks_exact_mut(columns)).map(|(&id, out)| {
            let id = id as usize;
            if id >= embedding.rows() {
                return Err(Error::input(format!(
                    "token id {id} is beyond the vocabulary of {} entries; do the tokenizer (or the given ids) and the weights of {} belong together?",
                    embedding.rows(),
                    self.path.display()
                )));
            }
            let row = embedding.read_rows(id..id + 1)?;
            widen(row.dtype, row.bytes.as_ref(), out);
            if out.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(embedding.not_finite()) }
        });
        // The first of several errors, on any number of threads.
        rows.find_first(Result::is_err).unwrap_or(Ok(()))?;
        Ok(hidden_states)
    }

    /// Brings a layer's weights to the device; fails if one of them holds NaN or infinity.
    pub fn layer<E: Engine>(&self, engine: &E, layer: usize) -> Result<LayerWeights<E>> {
        let tensors = self.architecture.layer_tensors(layer);
        LayerWeights::upload(engine, &self.architecture, layer, |part| {
            let Some(&tensor) = tensors.iter().find(|tensor| tensor.part == part) else { return Ok(None) };
            Ok(Some(self.stored(layer, tensor)?.read_finite()?))
        })
    }

    /// Touches a layer's pages, so that the system reads them from the disk while something else computes. An interrupt ends it.
    pub fn read_ahead(&self, layer: usize) {
        const PAGE: usize = 4096;
        const PART: usize = 16 << 20;
        for tensor in self.architecture.layer_tensors(layer) {
            let Ok(stored) = self.stored(layer, tensor) else { continue };
            for part in stored.bytes.as_ref().chunks(PART) {
                if interrupt::check().is_err() {
                    return;
                }
                std::hint::black_box(part.iter().step_by(PAGE).fold(0u8, |sum, byte| sum ^ byte));
            }
        }
    }

    /// The final norm and the head.
    pub fn head<E: Engine>(&self, engine: &E) -> Result<Head<E>> {
        let norm = self.final_norm()?.read_finite()?;
        let matrix = self.head_matrix()?.clone();
        Ok(Head {
            norm: engine.upload(&norm.to_f32(), norm.columns)?,
            eps: self.architecture.rms_norm_eps,
            vocabulary_size: matrix.rows(),
            rows: Box::new(move |rows| matrix.read_rows(rows)),
        })
    }

    /// Parameters of the whole model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors.entries().iter().map(|entry| entry.len() as u64).sum()
    }

    /// Sizes of the files of weights, and when they were changed, in milliseconds: what an interrupted run goes on with must be the same files.
    #[must_use]
    pub fn files(&self) -> Vec<(u64, Option<i64>)> {
        let paths: BTreeSet<&Path> = self.tensors.entries().iter().map(|entry| &*entry.file).collect();
        let since_epoch = |time: SystemTime| match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        let state = |file: Metadata| (file.len(), file.modified().ok().map(since_epoch));
        paths.into_iter().filter_map(|path| path.metadata().ok()).map(state).collect()
    }

    /// Identifies the model, in however many files: a hash of its structure, and of every tensor's name, format, shape and samples of its
    /// bytes, from its beginning to its end. Reading all of them for a hash would double the time of planning.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        const SAMPLES: usize = 16;
        const SAMPLE: usize = 512;
        let mut hash = Sha256::new();
        // It is the same on every system.
        let architecture = Architecture { rope: self.architecture.rope.in_f32(), ..self.architecture.clone() };
        hash.update(format!("{architecture:?}\n"));
        for entry in self.tensors.by_name() {
            let bytes = entry.bytes.as_ref();
            hash.update(format!("{} {} {:?}\n", entry.name, entry.storage.name(), entry.shape));
            if !entry.is_plain() {
                hash.update(format!("{:?} {}\n", entry.heads, entry.scale));
            }
            let last = bytes.len().saturating_sub(SAMPLE);
            for sample in 0..SAMPLES {
                let start = last * sample / (SAMPLES - 1);
                hash.update(&bytes[start..bytes.len().min(start + SAMPLE)]);
            }
        }
        hex(hash)
    }
}
