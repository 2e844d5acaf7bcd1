//! A story: one temporary site and the real binary run in it, step by step.

mod fleet;
mod training;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub use fleet::SMALL;

/// A temporary folder in which the program is run.
pub struct Story {
    dir: TempDir,
    now: Option<String>,
}

impl Story {
    /// An empty folder.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), now: None }
    }

    /// Fixes the clock of every command that follows.
    pub fn at(&mut self, now: &str) -> &mut Self {
        self.now = Some(now.to_owned());
        self
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a file of the story.
    pub fn write(&self, relative: &str, text: &str) -> &Self {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// The program with arguments (split at spaces), in the story's folder, with nothing of our environment.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tftctl"));
        command.args(args.split_whitespace()).current_dir(self.dir.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TFTCTL_"))
        {
            command.env_remove(name);
        }
        if let Some(now) = &self.now {
            command.env("TFTCTL_NOW", now);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(&self, args: &str) -> Ran {
        Ran::of(args, self.command(args).spawn().unwrap())
    }

    /// Runs the program to its end with one variable in its environment.
    #[track_caller]
    pub fn run_with_env(&self, args: &str, (name, value): (&str, &str)) -> Ran {
        Ran::of(args, self.command(args).env(name, value).spawn().unwrap())
    }

    /// Runs the program with `input` on its standard input.
    #[track_caller]
    pub fn run_with_input(&self, args: &str, input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let ran = Ran::of(args, child);
        // The program may stop reading before the end.
        let _ = writer.join().unwrap();
        ran
    }

    /// Changes settings of the story's config: `key = value` lines at the top, tables as `[table] key = value`.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) -> &Self {
        let path = self.path("tftctl.toml");
        let mut table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let parsed: toml::Table = format!("value = {value}").parse().unwrap();
        let value = parsed["value"].clone();
        match key.split_once('.') {
            Some((outer, inner)) => {
                table[outer].as_table_mut().unwrap().insert(inner.to_owned(), value);
            }
            None => {
                table.insert(key.to_owned(), value);
            }
        }
        fs::write(path, table.to_string()).unwrap();
        self
    }

    /// The names in a folder of the story, sorted; empty where there is none.
    pub fn names(&self, relative: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(relative)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// A finished run of the program.
pub struct Ran {
    what: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(what: &str, child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        Self {
            what: what.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exit(self, code: i32) -> Self {
        let Self { what, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "exit code of `tftctl {what}`\nstdout: {stdout}\nstderr: {stderr}");
        self
    }

    /// Asserts that standard output contains `text`.
    #[track_caller]
    pub fn stdout(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "`tftctl {}` should print {text:?}: {}", self.what, self.stdout);
        self
    }

    /// Asserts that standard error contains `text`.
    #[track_caller]
    pub fn stderr(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`tftctl {}` should say {text:?}: {}", self.what, self.stderr);
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("`tftctl {}` should print JSON ({error}): {}", self.what, self.stdout)
        })
    }
}

/// A folder of the shared real data, or `None` (with a printed line) where it is missing.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = root.join("../shared/data").join(name);
    if found.is_dir() {
        return Some(found.canonicalize().unwrap());
    }
    println!("skipped: the shared data set {name} is not here");
    None
}

/// Name, length and time of every file in a folder, to see that nothing was written there.
pub fn fingerprint(dir: &Path) -> Vec<(std::ffi::OsString, u64, std::time::SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            (entry.file_name(), meta.len(), meta.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

/// A path as text for a command line (paths of stories and of shared data have no spaces).
pub fn text(path: impl AsRef<OsStr>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}
