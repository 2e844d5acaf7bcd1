//! With the feature `cuda`: compiles the kernels to PTX, which the program embeds. Without it there is nothing to do.
//!
//! It asks for what the build of candle's own kernels asks for: nvcc (`NVCC`, else that of `CUDA_HOME` or `CUDA_PATH`,
//! else the one on the PATH) and the least compute capability to run on (`CUDA_COMPUTE_CAP`, else 80).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const KERNELS: &str = "src/ops/cuda/kernels";

fn main() {
    println!("cargo::rerun-if-changed={KERNELS}");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
}

fn compile() {
    let to = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.ptx");
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    let mut nvcc = Command::new(nvcc());
    nvcc.args(["--ptx", "-O3", "-std=c++17"]).arg(format!("-arch=compute_{capability}"));
    nvcc.arg("-o").arg(to).arg(Path::new(KERNELS).join("all.cu"));
    match nvcc.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("nvcc did not compile the kernels: {status}"),
        Err(error) => panic!("nvcc does not start ({error}): set NVCC or CUDA_HOME"),
    }
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let found = homes
        .map(|home| Path::new(&home).join("bin").join(format!("nvcc{}", env::consts::EXE_SUFFIX)))
        .find(|nvcc| nvcc.exists());
    found.unwrap_or_else(|| "nvcc".into())
}
