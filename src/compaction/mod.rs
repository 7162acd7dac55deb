//! Carrying out a plan: slices rows and columns, adds biases, and writes a model folder tensor by tensor from the map.
//!
//! It does not know how the plan was made.

mod folder;
mod slice;

pub use folder::{Compacted, compact};
pub use slice::Slice;
