//! Loading a model in a fresh process, with the reader production uses: the exam's first check.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::train::TrainedModel;
use crate::validate::ProbeReport;

/// A process that takes longer is ended.
const LIMIT: Duration = Duration::from_secs(120);

/// Starts this program again to load the model in `dir`.
///
/// - Errors: the fresh process could not be started, took too long, or ended without a word; only a process that
///   ran and said so speaks against the model.
pub fn probe(dir: &Path) -> Result<ProbeReport> {
    let mut child = Command::new(current_program()?)
        .args(["models", "probe"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start a fresh process")?;
    let started = Instant::now();
    while child.try_wait().context("wait for the fresh process")?.is_none() {
        if started.elapsed() > LIMIT {
            child.kill().and_then(|()| child.wait()).context("end the fresh process")?;
            anyhow::bail!("loading took more than {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().context("read from the fresh process")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the fresh process ended with {}", output.status))
}

/// This program's file; on Linux also when an update replaced it while this night was running: its path then names
/// nothing any more, but the kernel still has the bytes.
fn current_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?;
    let kept_open = Path::new("/proc/self/exe");
    let is_replaced = !path.exists() && kept_open.exists();
    Ok(if is_replaced { kept_open.to_owned() } else { path })
}

/// What the fresh process does: load and say how it went.
pub fn load(dir: &Path) -> ProbeReport {
    let started = Instant::now();
    let loaded = TrainedModel::read(dir, &candle_core::Device::Cpu);
    let weights = crate::fsx::sha256_file(&dir.join(crate::model_manifest::WEIGHTS_FILE));
    ProbeReport {
        loaded: loaded.is_ok(),
        error: loaded.err().map(|error| format!("{error:#}")),
        load_ms: started.elapsed().as_secs_f64() * 1000.0,
        weights_sha256: weights.unwrap_or_default(),
    }
}
