//! The library's error type. Every message says what was wrong, where (path, tensor or layer) and what to do.

use std::path::{Path, PathBuf};

/// Result of every fallible operation in this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation. Check that the path exists, is readable, and that the disk is not full.
    #[error("{}: {action}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, such as `cannot open`.
        action: &'static str,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file was read but what it says is wrong. Check that the download or copy is complete.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The model is of a kind this program does not handle.
    #[error("{0}")]
    Unsupported(String),
    /// A request that cannot be met: an option, or a combination of inputs.
    #[error("{0}")]
    Input(String),
    /// NaN or infinity where numbers were expected.
    #[error("{0}")]
    NotFinite(String),
    /// The compute device has no memory for a buffer.
    #[error("the device has no memory for {bytes} bytes more ({message}); give a smaller --memory-budget, or --device cpu")]
    DeviceMemory {
        /// Of the buffer.
        bytes: u64,
        /// What the driver said.
        message: String,
    },
    /// The compute device failed: lost, or a request it refused. Try a smaller `--batch-tokens`, or `--device cpu`.
    #[error("device failed in {operation}: {message}")]
    Device {
        /// The engine operation with its sizes.
        operation: String,
        /// What the driver said.
        message: String,
    },
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Wraps an I/O error with the path it is about.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Io { path, action, reason }
    }

    /// A file whose content is wrong.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into() }
    }

    /// A tensor of a checkpoint that holds NaN or infinity, in this file if it is known.
    #[must_use]
    pub fn weights_not_finite(file: Option<&Path>, tensor: &str) -> Self {
        let file = file.map_or(String::new(), |file| format!("{}: ", file.display()));
        Self::NotFinite(format!(
            "{file}tensor `{tensor}` holds NaN or infinity; the checkpoint is damaged or was saved after training diverged"
        ))
    }

    /// NaN or infinity among the activations of a model, at `place`.
    #[must_use]
    pub fn activations_not_finite(place: impl std::fmt::Display) -> Self {
        Self::NotFinite(format!("NaN or infinity appeared {place}; the checkpoint is damaged, or its activations overflow f32"))
    }

    /// A request that cannot be met.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }
}
