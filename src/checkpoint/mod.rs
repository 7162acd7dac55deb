//! Models on disk: configuration, safetensors and GGUF by memory map, tokenizer.
//!
//! Nothing here knows what a GPU is, or what pruning means.

mod config;
pub mod gguf;
mod head_rows;
mod safetensors;
mod stored;
mod tensors;
mod tokenizer;

pub use config::Config;
pub use head_rows::HeadRows;
pub use safetensors::{SafetensorsWriter, TensorFile, TensorHeader};
pub use stored::{Storage, StoredTensor};
pub use tensors::Tensors;
pub use tokenizer::Tokenizer;
