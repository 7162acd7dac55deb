//! Models on disk: configuration, safetensors and GGUF by memory map, tokenizer; and output that appears whole or not at all.
//!
//! Nothing here knows what a GPU is, or what pruning means.

mod config;
pub mod files;
pub mod folder;
pub mod gguf;
mod output;
mod partial;
mod safetensors;
mod scratch;
mod stored;
mod stream;
mod tensors;
mod tokenizer;

pub use config::Config;
pub use output::{OutputFile, OutputFolder, settled};
pub use safetensors::{SafetensorsWriter, TensorFile, TensorHeader};
pub use scratch::{Scratch, temporary_file, temporary_folder, temporary_shortage};
pub use stored::{Storage, StoredTensor};
pub use tensors::Tensors;
pub use tokenizer::Tokenizer;
