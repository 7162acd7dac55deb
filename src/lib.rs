//! flap-gpu makes decoder language models structurally smaller.
pub mod engine;
pub mod error;
pub mod interrupt;
pub mod architecture;
pub mod checkpoint;
pub mod forward;
pub mod model;
pub mod pass;
pub mod progress;
pub mod statistics;
pub mod calibration;
pub mod importance;
pub mod search;
