//! What Ctrl-C and the system's requests to end do.

use crate::interrupt;
use anyhow::{Context, Result};

/// Ctrl-C, and what asks the program to end, let long work stop cleanly. A hang-up that the caller has chosen to ignore, as `nohup` does,
/// stays ignored. A file that becomes larger than the caller allows is an error like a full disk, and not the end.
pub fn handle() -> Result<()> {
    #[cfg(unix)]
    ignore(libc::SIGXFSZ);
    #[cfg(unix)]
    let ignores_hang_up = ignores_hang_up();
    ctrlc::set_handler(|| {
        if interrupt::request() {
            // Asked twice: do not wait for the end of a long operation.
            std::process::exit(1);
        }
    })
    .context("cannot handle Ctrl-C")?;
    #[cfg(unix)]
    if ignores_hang_up {
        ignore(libc::SIGHUP);
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
fn ignore(signal: libc::c_int) {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
