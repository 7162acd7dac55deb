//! Ctrl-C as an error value: long loops call [`check`], so temporary files are removed by their owners' destructors.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Notes that the user wants the program to stop; returns whether that had been asked before.
pub fn request() -> bool {
    INTERRUPTED.swap(true, Ordering::SeqCst)
}

/// Fails with [`Error::Interrupted`] once an interrupt was requested.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
