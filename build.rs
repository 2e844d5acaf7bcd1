//! With the feature `cuda`: compiles the kernels to PTX, once per precision of their matrix products, which the program
//! embeds. Without it there is nothing to do.
//!
//! It asks for what the build of candle's own kernels asks for: nvcc (`NVCC`, else that of `CUDA_HOME` or `CUDA_PATH`,
//! else the one on the PATH) and the least compute capability to run on (`CUDA_COMPUTE_CAP`, else 80).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const KERNELS: &str = "src/ops/cuda/kernels";
/// Names of the precisions, in the order of their numbers in `tensor_core.cuh`.
const PRECISIONS: [&str; 3] = ["float32", "tf32", "bf16"];
/// The least compute capability whose tensor cores know the others.
const TENSOR_CORES: u32 = 80;

fn main() {
    println!("cargo::rerun-if-changed={KERNELS}");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    let has_tensor_cores = capability.parse().is_ok_and(|number: u32| number >= TENSOR_CORES);
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for (number, name) in PRECISIONS.into_iter().enumerate() {
        let to = folder.join(format!("kernels_{name}.ptx"));
        match number == 0 || has_tensor_cores {
            true => compile(&capability, number, &to),
            // The program says so when it is asked for them.
            false => fs::write(&to, "").expect("a file in cargo's own folder"),
        }
    }
}

fn compile(capability: &str, precision: usize, to: &Path) {
    let mut nvcc = Command::new(nvcc());
    nvcc.args(["--ptx", "-O3", "-std=c++17"]).arg(format!("-arch=compute_{capability}"));
    nvcc.arg(format!("-DPRECISION={precision}"));
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
