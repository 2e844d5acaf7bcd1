//! Loading a model in a fresh process, with the reader production uses: the exam's first check.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::train::TrainedModel;
use crate::validate::ProbeReport;

/// A process that takes longer is ended.
const LIMIT: Duration = Duration::from_secs(120);

/// Starts this program again to load the model in `dir`.
pub fn probe(dir: &Path) -> ProbeReport {
    probe_in_child(dir).unwrap_or_else(|error| ProbeReport {
        loaded: false,
        error: Some(format!("{error:#}")),
        load_ms: 0.0,
        weights_sha256: String::new(),
    })
}

fn probe_in_child(dir: &Path) -> Result<ProbeReport> {
    let program = std::env::current_exe().context("find this program")?;
    let mut child = Command::new(program)
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
            child.kill().context("end the fresh process")?;
            anyhow::bail!("loading took more than {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().context("read from the fresh process")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the fresh process ended with {}", output.status))
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
