//! A machine without a GPU: the kernels compiled as plain C++, in a process of its own.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use candle_core::{Result, bail};

use crate::ops::cuda::machine::{Arg, Grid, Machine, Memory};
use crate::precision::Precision;

/// The order in which a block's threads run between barriers; results must not depend on it.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Up,
    Down,
}

pub struct Emulation {
    child: Child,
    requests: ChildStdin,
    replies: ChildStdout,
    order: Order,
    shared_bytes: usize,
}

impl Emulation {
    /// `None`, with a printed line, where there is no C++ compiler.
    pub fn start(order: Order, shared_bytes: usize) -> Option<Emulation> {
        Self::start_in(Precision::Float32, order, shared_bytes)
    }

    /// With the kernels of a precision.
    pub fn start_in(precision: Precision, order: Order, shared_bytes: usize) -> Option<Emulation> {
        static PROGRAMS: [OnceLock<Option<PathBuf>>; 3] = [const { OnceLock::new() }; 3];
        let program = PROGRAMS[precision as usize].get_or_init(|| build(precision)).as_ref()?;
        let mut command = Command::new(program);
        // What is allocated lives as long as the process; that is no leak.
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (requests, replies) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Emulation { child, requests, replies, order, shared_bytes })
    }

    pub fn write(&mut self, words: &[u32]) -> Memory {
        let memory = self.alloc(words.len()).unwrap();
        self.request(b'w', &[memory.address, words.len() as u64]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.requests.write_all(&bytes).unwrap();
        memory
    }

    pub fn write_reals(&mut self, values: &[f32]) -> Memory {
        self.write(&values.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
    }

    pub fn download(&mut self, memory: Memory) -> Vec<f32> {
        self.request(b'r', &[memory.address, memory.len as u64]);
        let bytes = self.reply(4 * memory.len);
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn request(&mut self, kind: u8, numbers: &[u64]) {
        let mut bytes = vec![kind];
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.requests.write_all(&bytes).unwrap();
    }

    fn reply(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.requests.flush().unwrap();
        if self.replies.read_exact(&mut bytes).is_err() {
            let mut report = String::new();
            let _ = self.child.stderr.take().unwrap().read_to_string(&mut report);
            panic!("the emulated kernels ended:\n{report}");
        }
        bytes
    }
}

impl Machine for Emulation {
    fn alloc(&mut self, len: usize) -> Result<Memory> {
        self.request(b'a', &[len as u64]);
        let address = u64::from_le_bytes(self.reply(8).try_into().unwrap());
        Ok(Memory { address, len })
    }

    fn upload(&mut self, words: &[u32]) -> Result<Memory> {
        Ok(self.write(words))
    }

    fn table(&mut self, words: &[u32]) -> Result<Memory> {
        Ok(self.write(words))
    }

    fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    fn launch(&mut self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        self.request(b'l', &[kernel.len() as u64]);
        self.requests.write_all(kernel.as_bytes()).unwrap();
        let numbers =
            [grid.blocks.0, grid.blocks.1, grid.threads, 4 * grid.shared, self.order as usize, args.len()];
        let mut numbers: Vec<u64> = numbers.iter().map(|&n| n as u64).collect();
        assert!(grid.threads <= 1024 && 4 * grid.shared <= self.shared_bytes, "{kernel}: {grid:?}");
        numbers.extend(args.iter().map(|arg| match *arg {
            Arg::Address(address) => address,
            Arg::Int(n) => u64::from(n as u32),
            Arg::Word(word) => word,
            Arg::Real(x) => u64::from(x.to_bits()),
        }));
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.requests.write_all(&bytes).unwrap();
        match self.reply(1)[0] {
            1 => Ok(()),
            _ => bail!("no kernel {kernel} with {} arguments", args.len()),
        }
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The compiled kernels of a precision, beside this test's own program; a name per state of the sources, so that they are
/// built once.
fn build(precision: Precision) -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/cuda");
    let mut files: Vec<PathBuf> = ["kernels", "emulation"]
        .iter()
        .flat_map(|folder| fs::read_dir(sources.join(folder)).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| fs::read(file).unwrap().hash(&mut hasher));
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let program = folder.join(format!("cuda-emulation-{precision}-{:016x}", hasher.finish()));
    if program.exists() {
        return Some(program);
    }
    let own = folder.join(format!("cuda-emulation-{precision}-{}", std::process::id()));
    let main = sources.join("emulation/main.cpp");
    // With the sanitizers where the compiler has them.
    let sanitizers = ["-fsanitize=address,alignment", "-fno-sanitize-recover=alignment"];
    let chosen = format!("-DPRECISION={}", precision as usize);
    if !compile(&main, &own, &[&sanitizers[..], &[&chosen]].concat())? && !compile(&main, &own, &[&chosen])? {
        let has_fibers = compile(&sources.join("emulation/fibers.cpp"), &own, &[])?;
        assert!(!has_fibers, "the kernels do not compile as C++");
        println!("skipped: the CUDA kernels are not emulated, this system has no ucontext");
        return None;
    }
    fs::rename(own, &program).unwrap();
    Some(program)
}

/// Whether it compiled; `None`, with a printed line, if there is no compiler.
fn compile(source: &Path, to: &Path, flags: &[&str]) -> Option<bool> {
    let mut command = Command::new("g++");
    command
        .args(["-std=c++17", "-O1", "-g", "-Wno-unknown-pragmas"])
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(to);
    match command.status() {
        Ok(status) => Some(status.success()),
        Err(error) => {
            println!("skipped: the CUDA kernels are not emulated, g++ does not start ({error})");
            None
        }
    }
}
