//! The safetensors format.

mod reader;
mod writer;

pub use reader::TensorFile;
pub use writer::{SafetensorsWriter, TensorHeader};
