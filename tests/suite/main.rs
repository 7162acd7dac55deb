//! The tests: against other implementations' numbers, the engines against each other, properties, and the command line.
//!
//! GPU tests use the first adapter, a software driver included. Without any they say so and pass, unless the environment
//! variable `FLAP_GPU_REQUIRE_GPU` is set: then they fail. Tests that need the reference material beside the project (see
//! `support`) likewise, with `FLAP_GPU_REQUIRE_SHARED`.

mod authors;
mod command_line;
mod configurations;
mod damaged_input;
mod devices;
mod folders;
mod gguf;
mod kernels;
mod memory;
mod moments;
mod properties;
mod recipes;
mod rope;
mod shaders;
mod support;
mod texts;
mod transformers;
