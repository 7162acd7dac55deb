//! Model folders on disk: configuration, safetensors by memory map, tokenizer; and output that appears whole or not at all.
//!
//! Nothing here knows what a GPU is, or what pruning means.

mod config;
pub mod files;
mod output;
mod tensors;
mod tokenizer;
mod writer;

pub use config::Config;
pub use output::{OutputFile, OutputFolder};
pub use tensors::{TensorFile, Tensors};
pub use tokenizer::Tokenizer;
pub use writer::{SafetensorsWriter, TensorHeader};
