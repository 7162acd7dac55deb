//! Files: output that appears whole or not at all, streams that go to the disk as they are written, temporary files, and operations whose
//! errors carry the path.
//!
//! Nothing here knows what a file is about.

pub mod files;
mod output;
mod partial;
mod scratch;
mod stream;

pub use output::{OutputFile, OutputFolder, settled};
pub use partial::output_in_the_making;
pub use scratch::{Scratch, temporary_file, temporary_folder, temporary_shortage};
pub use stream::StreamWriter;
