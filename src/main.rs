//! Turns the command line into an exit code.

use std::process::ExitCode;

/// Keeps freed blocks instead of handing them back to the kernel: training frees and reallocates the same
/// large tensors at every step, and op-by-op training is half page faults without it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tftctl::platform::use_small_pages();
    one_tensor_thread();
    ExitCode::from(tftctl::cli::run(std::env::args_os()).code())
}

/// Lets the tensor library's own element-wise pool have one thread unless the user says otherwise with
/// `CANDLE_NUM_THREADS`.
///
/// Its threads spin while they wait for each other, which burns the cores of our neighbours. The fused operations, where
/// the time goes, share work among rayon's threads, which sleep when there is nothing to do (`RAYON_NUM_THREADS`).
fn one_tensor_thread() {
    const VARIABLE: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: nothing else runs yet that could read or write the environment at the same time.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}
