//! flap-gpu makes decoder language models structurally smaller: it prunes whole attention heads and MLP neurons with FLAP
//! (*Fluctuation-based Adaptive Structured Pruning*, AAAI 2024, arXiv 2312.11983), with no retraining, on any GPU or none.
//!
//! The way of the data: [`checkpoint`] maps a model folder to [`tensor`]s; [`architecture`] says which tensor plays which part; [`calibration`]
//! sends windows of text through the layers ([`pass`], [`forward`]) on an [`engine`] and takes [`statistics`]; [`pruning`] turns
//! them into a [`plan`] by [`importance`] and [`search`], or a [`recipe`] beyond FLAP makes plan and weights; [`compensation`] and
//! [`compaction`] carry it out, and [`export`] writes the
//! result as a Hugging Face folder or a GGUF file.

pub mod architecture;
pub mod bench;
pub mod calibration;
pub mod checkpoint;
pub mod cli;
pub mod compaction;
pub mod compensation;
pub mod digest;
pub mod disk;
pub mod engine;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod forward;
pub mod importance;
pub mod interrupt;
pub mod model;
pub mod pass;
pub mod plan;
pub mod progress;
pub mod pruning;
pub mod recipe;
pub mod resume;
pub mod search;
pub mod statistics;
pub mod tensor;
