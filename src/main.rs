//! The `flap-gpu` command. Everything it does is in the library; see [`flap_gpu::cli`].

fn main() -> std::process::ExitCode {
    quiet_driver();
    flap_gpu::cli::main()
}

/// Without a desktop session, a Vulkan layer that asks the desktop for its favourite GPU complains on standard error. It has nothing to
/// ask: adapters are ordered here.
#[cfg(target_os = "linux")]
fn quiet_driver() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the program has one thread so far.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Only Linux has that layer.
#[cfg(not(target_os = "linux"))]
fn quiet_driver() {}
