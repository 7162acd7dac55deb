//! Ctrl-C as an error value: long loops call [`check`], so temporary files are removed by their owners' destructors.

use crate::error::{Error, Result};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static FIRST_REQUEST: OnceLock<Instant> = OnceLock::new();

/// Two requests nearer to each other are one: some programs send a signal to a process and to its group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Notes that the user wants the program to stop; returns whether that had been asked before.
pub fn request() -> bool {
    let now = Instant::now();
    now.duration_since(*FIRST_REQUEST.get_or_init(|| now)) > ONE_REQUEST
}

/// Fails with [`Error::Interrupted`] once an interrupt was requested.
pub fn check() -> Result<()> {
    if FIRST_REQUEST.get().is_some() { Err(Error::Interrupted) } else { Ok(()) }
}
