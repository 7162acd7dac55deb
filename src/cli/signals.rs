//! What Ctrl-C and the system's requests to end do.

use crate::interrupt;
use anyhow::{Context, Result};

/// Ctrl-C, and what asks the program to end, let long work stop cleanly. A hang-up that the caller has chosen to ignore, as `nohup` does,
/// stays ignored.
pub fn handle() -> Result<()> {
    let ignores_hang_up = ignores_hang_up();
    ctrlc::set_handler(|| {
        if interrupt::request() {
            // Asked twice: do not wait for the end of a long operation.
            std::process::exit(1);
        }
    })
    .context("cannot handle Ctrl-C")?;
    if ignores_hang_up {
        ignore_hang_up();
    }
    Ok(())
}

#[cfg(unix)]
fn ignores_hang_up() -> bool {
    // SAFETY: a null action asks for the current one, and zeros are a valid place to put it.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut current) == 0 && current.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(unix)]
fn ignore_hang_up() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// There is no such signal here.
#[cfg(not(unix))]
fn ignores_hang_up() -> bool {
    false
}

#[cfg(not(unix))]
fn ignore_hang_up() {}
