//! Turns the command line into an exit code.

use std::process::ExitCode;

/// Keeps freed blocks instead of handing them back to the kernel: training frees and reallocates the same
/// large tensors at every step, and op-by-op training is half page faults without it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(tftctl::cli::run(std::env::args_os()).code())
}
