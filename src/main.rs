//! Turns the command line into an exit code.

use std::process::ExitCode;

/// Keeps freed blocks instead of handing them back to the kernel: training frees and reallocates the same
/// large tensors at every step, and op-by-op training is half page faults without it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    one_tensor_thread();
    ExitCode::from(tftctl::cli::run(std::env::args_os()).code())
}

/// Lets the tensor library compute on one thread unless the user says otherwise with `RAYON_NUM_THREADS`.
///
/// Its threads spin while they wait for each other. With plain operations on tensors of our size two of them are
/// slower than one (226 against 247 samples/s on a quiet 2-core machine, 13 against 79 on a busy one), and a
/// nightly run should not burn the cores of its neighbours.
fn one_tensor_thread() {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: nothing else runs yet that could read or write the environment at the same time.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}
