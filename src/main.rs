//! The `flap-gpu` command. Everything it does is in the library; see [`flap_gpu::cli`].

fn main() -> std::process::ExitCode {
    flap_gpu::cli::main()
}
