//! What a subcommand finds out about the world, once: global flags, site, clock, output, progress, stop signal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

use super::bars::Bars;
use super::output::Output;
use crate::clock::{Clock, parse_time};
use crate::config::Config;
use crate::error::{HintExt, Refusal};
use crate::progress::Progress;
use crate::site::{CONFIG_FILE, Site};

/// Flags every subcommand takes.
#[derive(clap::Args, Clone)]
pub struct Global {
    /// The site: its tftctl.toml or the folder that holds it [default: the nearest one, from here upwards]
    #[arg(long, global = true, env = "TFTCTL_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// The clock: every date decision takes this moment for now (RFC 3339, or local to the site)
    #[arg(long, global = true, env = "TFTCTL_NOW", value_name = "TIME")]
    pub now: Option<String>,
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The world as the command line describes it.
pub struct Context {
    global: Global,
    pub output: Output,
    bars: Bars,
}

impl Context {
    pub fn new(global: &Global) -> Self {
        let output = Output { json: global.json, quiet: global.quiet, verbose: global.verbose };
        Self { global: global.clone(), output, bars: Bars::new(global.quiet, global.verbose) }
    }

    /// Opens the site the command line, the environment or the working directory names.
    pub fn site(&self) -> Result<Site> {
        let path = match &self.global.config {
            Some(path) => path.clone(),
            None => nearest_config()?,
        };
        let site = Site::open(&path, &setting_variables())?;
        // Also of commands that ask for no time: what they say is dated.
        self.clock(site.zone())?;
        Ok(site)
    }

    /// The site, if the command line or the environment names one or the working directory is in one.
    pub fn site_if_any(&self) -> Result<Option<Site>> {
        let is_here = self.global.config.is_some() || nearest_config()?.is_file();
        if is_here { self.site().map(Some) } else { Ok(None) }
    }

    /// The settings of the site if there is one, else those of the environment over the defaults.
    pub fn config(&self) -> Result<Config> {
        match self.site_if_any()? {
            Some(site) => Ok(site.config),
            None => {
                Ok(Config::parse("", &setting_variables()).context("read the environment's settings")?.config)
            }
        }
    }

    /// Where `init` and `quickstart` make their site, if `--config` says so.
    pub fn named_config(&self) -> Option<&Path> {
        self.global.config.as_deref()
    }

    /// The clock, with local times of `--now` read in `zone`.
    pub fn clock(&self, zone: chrono_tz::Tz) -> Result<Clock> {
        let clock = match &self.global.now {
            Some(text) => Clock::Fixed(parse_time(text, zone)?),
            None => Clock::Real,
        };
        self.bars.set_clock(clock);
        Ok(clock)
    }

    pub fn progress(&self) -> &dyn Progress {
        &self.bars
    }

    /// Lets a signal remove a temporary folder before it ends the process.
    pub fn remove_on_signal(&self, folder: &Path) -> Result<()> {
        let folder = folder.to_owned();
        ctrlc::set_handler(move || leave_nothing(&folder)).context("listen for signals")
    }

    /// A flag that the first SIGINT, SIGTERM, Ctrl-C or Ctrl-Break sets; a second one ends the process.
    pub fn stop_on_signal(&self) -> Result<Arc<AtomicBool>> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let handler = move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(crate::error::Exit::Interrupted.code()));
            }
        };
        ctrlc::set_handler(handler).context("listen for signals")?;
        Ok(stop)
    }
}

/// Removes `folder` and ends the process.
fn leave_nothing(folder: &Path) {
    // There is nobody left to tell; what stays is named after its maker.
    let _ = std::fs::remove_dir_all(folder);
    std::process::exit(i32::from(crate::error::Exit::Interrupted.code()));
}

/// The config file of the working directory or of the nearest folder above that has one.
fn nearest_config() -> Result<PathBuf> {
    let here = std::env::current_dir().context("find the working directory")?;
    let found = here.ancestors().map(|folder| folder.join(CONFIG_FILE)).find(|path| path.is_file());
    Ok(found.unwrap_or_else(|| here.join(CONFIG_FILE)))
}

/// The environment variables that may be settings.
pub(super) fn setting_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("TFTCTL_"))
        .collect()
}

/// Checks that a file which the command line names can be made: a folder is not made of a mistyped name.
///
/// - Errors: its folder is not there (a usage error).
pub fn ensure_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(());
    }
    let problem = format!("{}: there is no folder {}", path.display(), folder.display());
    Err(Refusal::usage(problem)).hint(|| "make it first, or name a file in one that is there".into())
}

/// `--wait`: how long to wait for another run of this site.
#[derive(clap::Args, Clone, Copy)]
pub struct WaitArgs {
    /// Wait this long for a run that holds the site lock, such as 10m [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<std::time::Duration>,
}

impl WaitArgs {
    pub fn duration(&self) -> std::time::Duration {
        self.wait.unwrap_or_default()
    }
}

/// Reads a duration such as `90s`, `10m`, `4h` or `1.5h`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write 90s, 10m or 4h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let secs_per_unit = match &text[digits.len()..] {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    std::time::Duration::try_from_secs_f64(value * secs_per_unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("90s").unwrap().as_secs(), 90);
        assert_eq!(parse_duration("1.5h").unwrap().as_secs(), 5400);
        for wrong in ["", "4", "h", "-4h", "4 hours", "NaNs"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
