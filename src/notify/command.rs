//! Runs the user's command line with a message on its standard input.
//!
//! Input and output are unnamed temporary files, not pipes: a command that reads nothing, prints without end or
//! leaves a child behind cannot make us wait. The command line itself is never in an error, since people put
//! tokens there.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::platform;

const POLL: Duration = Duration::from_millis(20);
const OUTPUT_BYTES: i64 = 400;

/// Runs `line` in `dir` through the shell, gives it `input`, and waits for its end until `deadline`.
///
/// - Errors: it cannot start, ends with another code than 0 (its last words are in the error), or is still
///   running at the deadline; then it is killed together with what it started.
pub(super) fn run(line: &str, dir: &Path, input: &serde_json::Value, deadline: Instant) -> Result<()> {
    if Instant::now() >= deadline {
        bail!("no time was left to try");
    }
    let mut output = tempfile::tempfile().context("make a file for its output")?;
    let (shell, flag) = platform::shell();
    let mut command = Command::new(shell);
    command
        .args([flag, line])
        .current_dir(dir)
        .stdin(input_file(input).context("write its input")?)
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    platform::own_group(&mut command);
    let mut child = command.spawn().with_context(|| format!("start {shell}"))?;
    match wait_until(&mut child, deadline).context("wait for it")? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("ended with {status}{}", last_words(&mut output)),
        None => {
            platform::kill_group(&mut child);
            let _ = child.wait();
            bail!("was killed, because its time was over{}", last_words(&mut output))
        }
    }
}

fn input_file(input: &serde_json::Value) -> Result<File> {
    let mut file = tempfile::tempfile()?;
    writeln!(file, "{input}")?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// The end of what the command printed, on one line, in brackets; nothing if it printed nothing.
fn last_words(output: &mut File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len() as i64);
    let mut bytes = Vec::new();
    let read = output
        .seek(SeekFrom::Start((length - OUTPUT_BYTES).max(0) as u64))
        .and_then(|_| output.take(OUTPUT_BYTES as u64).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    if read.is_err() || words.is_empty() { String::new() } else { format!(" (it said: {})", words.join(" ")) }
}
