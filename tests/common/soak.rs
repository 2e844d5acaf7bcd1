//! Several appenders, a rotation and readers on one buffer, killed at random moments; what was acknowledged is counted.
//!
//! Every row has a key of its own and says in its value which one it is, so that the rows that are found in the end can
//! be held against those that were sent and those that were acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polars::prelude::{ParquetReader, SerReader};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Story;

/// The first row of every server; the next is a second later.
const FIRST_MS: i64 = 1_709_287_200_000; // 2024-03-01T10:00:00Z
const NOW: &str = "2024-03-03T12:00:00Z";
/// Rows between two rows that are sent one after the other: with a row a second this is a bit more than half a day.
const STRIDE: u64 = 40_007;
const DAY_ROWS: u64 = 2 * 86_400;
const METRIC: &str = "load_average";

/// How long to go on, and with what dice.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Kills after which it ends.
    pub n_kills: u64,
    /// It ends after this time in any case.
    pub at_most: Duration,
}

/// What was done and found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Kills that ended a living process, by what it was.
    pub kills: BTreeMap<&'static str, u64>,
    pub n_commands: u64,
    pub n_sent: usize,
    pub n_acknowledged: usize,
    pub n_found: usize,
    pub secs: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, n_commands, n_sent, n_acknowledged, n_found, secs } = self;
        let n_kills = self.n_kills();
        write!(f, "{n_kills} kills of {n_commands} commands in {secs:.0} s {kills:?}: ")?;
        write!(f, "{n_sent} rows sent, {n_acknowledged} acknowledged, {n_found} found")
    }
}

impl Outcome {
    pub fn n_kills(&self) -> u64 {
        self.kills.values().sum()
    }
}

/// A row: its server and its number.
type Key = (String, u64);

/// A process that may be killed at any moment by somebody else.
struct Victim {
    kind: &'static str,
    child: Mutex<Child>,
}

struct Soak {
    story: Story,
    plan: Plan,
    is_over: AtomicBool,
    victims: Mutex<Vec<Arc<Victim>>>,
    kills: Mutex<BTreeMap<&'static str, u64>>,
    n_commands: AtomicU64,
    sent: Mutex<BTreeSet<Key>>,
    acknowledged: Mutex<BTreeSet<Key>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does all of it, and panics where a command ends as it must not, or a row is lost, doubled or made up.
pub fn soak(plan: Plan) -> Outcome {
    let mut story = Story::new();
    story.run("init").exit(0);
    story.at(NOW);
    let soak = Soak {
        story,
        plan,
        is_over: AtomicBool::new(false),
        victims: Mutex::default(),
        kills: Mutex::default(),
        n_commands: AtomicU64::new(0),
        sent: Mutex::default(),
        acknowledged: Mutex::default(),
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Whatever panics ends all of it.
        let worker = |work: &'static (dyn Fn(&Soak, ChaCha8Rng, &str) + Sync), number: u64| {
            let soak = &soak;
            let dice = ChaCha8Rng::seed_from_u64(plan.seed.wrapping_mul(100) + number);
            scope.spawn(move || {
                let _end = EndWithMe(&soak.is_over);
                work(soak, dice, &format!("server-{number}"));
            });
        };
        worker(&Soak::follow, 1);
        worker(&Soak::follow, 2);
        worker(&Soak::append_files, 3);
        worker(&Soak::append_files, 4);
        worker(&Soak::rotate, 5);
        worker(&Soak::read, 6);
        worker(&Soak::kill, 7);
    });
    let secs = started.elapsed().as_secs_f64();
    soak.examine(secs)
}

/// Ends the others when its thread ends, however that is.
struct EndWithMe<'a>(&'a AtomicBool);

impl Drop for EndWithMe<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Where in time the `n`th row of a server lies: here and there in two days, so that days are open and sealed at once.
fn time_ms(n: u64) -> i64 {
    assert!(n < DAY_ROWS, "keys would repeat");
    FIRST_MS + 1000 * ((n * STRIDE) % DAY_ROWS) as i64
}

fn line(server: &str, n: u64) -> String {
    format!("{{\"timestamp\":{},\"server_name\":\"{server}\",\"{METRIC}\":{n}}}\n", time_ms(n))
}

impl Soak {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn n_kills(&self) -> u64 {
        lock(&self.kills).values().sum()
    }

    /// Starts a command that may be killed.
    fn start(&self, kind: &'static str, args: &str, has_input: bool) -> Arc<Victim> {
        let mut command = self.story.command(args);
        if has_input {
            command.stdin(Stdio::piped());
        }
        let victim = Arc::new(Victim { kind, child: Mutex::new(command.spawn().unwrap()) });
        lock(&self.victims).push(victim.clone());
        self.n_commands.fetch_add(1, Ordering::SeqCst);
        victim
    }

    /// Waits for its end, which must be one of `codes` unless it was killed; says whether it ended with 0.
    fn end(&self, victim: &Arc<Victim>, stderr: &str, codes: &[i32]) -> bool {
        let status = wait(victim);
        lock(&self.victims).retain(|other| !Arc::ptr_eq(other, victim));
        if let Some(code) = status.code() {
            // A window that is read while rows keep coming in is given up at last.
            let is_overtaken = code == 1 && stderr.contains("days changed 3 times while they were read");
            assert!(codes.contains(&code) || is_overtaken, "{} exited with {code}: {stderr}", victim.kind);
        }
        status.success()
    }

    /// Runs a command to its end; its standard output if it was not killed.
    fn command(&self, kind: &'static str, args: &str, codes: &[i32]) -> Option<String> {
        let victim = self.start(kind, args, false);
        let (stdout, stderr) = {
            let mut child = lock(&victim.child);
            (child.stdout.take().unwrap(), child.stderr.take().unwrap())
        };
        let stderr = std::thread::spawn(move || text_of(stderr));
        let stdout = text_of(stdout);
        let stderr = stderr.join().unwrap();
        self.end(&victim, &stderr, codes);
        let was_killed = wait(&victim).code().is_none();
        (!was_killed).then_some(stdout)
    }

    /// A collector with a long pipe, which remembers what was acknowledged.
    fn follow(&self, mut dice: ChaCha8Rng, server: &str) {
        let mut next = 0;
        while !self.is_over() {
            let victim = self.start("append --follow", "buffer append - --follow --json", true);
            let (mut stdin, stdout, stderr) = {
                let mut child = lock(&victim.child);
                (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap())
            };
            let acknowledged = std::thread::spawn(move || last_acknowledgement(stdout));
            let stderr = std::thread::spawn(move || text_of(stderr));
            let first = next;
            let n_batches = dice.random_range(1..60);
            for _ in 0..n_batches {
                let n_rows = dice.random_range(1..200);
                let text: String = (next..next + n_rows).map(|n| line(server, n)).collect();
                lock(&self.sent).extend((next..next + n_rows).map(|n| (server.to_owned(), n)));
                next += n_rows;
                if self.is_over() || stdin.write_all(text.as_bytes()).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(dice.random_range(0..60)));
            }
            drop(stdin);
            let n_acknowledged = acknowledged.join().unwrap();
            self.end(&victim, &stderr.join().unwrap(), &[0]);
            let safe = first..first + n_acknowledged;
            assert!(safe.end <= next, "it acknowledged more than it was sent");
            lock(&self.acknowledged).extend(safe.clone().map(|n| (server.to_owned(), n)));
            // Some producers send again what was not acknowledged, others let it be.
            next = if dice.random_bool(0.5) { safe.end } else { next };
            if next + 20_000 > DAY_ROWS {
                break;
            }
        }
        self.wait_for_the_others();
    }

    /// A job that appends a file now and then: all of it is there once it exits with 0.
    fn append_files(&self, mut dice: ChaCha8Rng, server: &str) {
        let mut next = 0;
        while !self.is_over() && next + 5000 < DAY_ROWS {
            let rows = next..next + dice.random_range(1..2000);
            let file = format!("{server}.ndjson");
            self.story.write(&file, &rows.clone().map(|n| line(server, n)).collect::<String>());
            lock(&self.sent).extend(rows.clone().map(|n| (server.to_owned(), n)));
            if self.command("append", &format!("buffer append {file}"), &[0]).is_some() {
                lock(&self.acknowledged).extend(rows.clone().map(|n| (server.to_owned(), n)));
                next = rows.end;
            } else if dice.random_bool(0.5) {
                next = rows.end;
            }
        }
        self.wait_for_the_others();
    }

    fn rotate(&self, mut dice: ChaCha8Rng, _: &str) {
        while !self.is_over() {
            let args = if dice.random_bool(0.3) { "buffer rotate --include-open" } else { "buffer rotate" };
            self.command("rotate", args, &[0]);
            std::thread::sleep(Duration::from_millis(dice.random_range(0..100)));
        }
    }

    /// Everything that reads ends as it should whatever the others do.
    fn read(&self, mut dice: ChaCha8Rng, _: &str) {
        while !self.is_over() {
            match dice.random_range(0..3) {
                0 => drop(self.command("status", "buffer status --json", &[0])),
                // There is far too little data for a window, which it has to read to say.
                1 => drop(self.command("window build", "window build", &[0, 4])),
                _ => {
                    let found = self.command("verify", "buffer verify --read-data --json", &[0, 1]);
                    found.iter().for_each(|report| ensure_only_torn_tails(report));
                }
            }
        }
    }

    /// Kills one of those that live, again and again.
    fn kill(&self, mut dice: ChaCha8Rng, _: &str) {
        let started = Instant::now();
        while !self.is_over() && self.n_kills() < self.plan.n_kills && started.elapsed() < self.plan.at_most {
            std::thread::sleep(Duration::from_millis(dice.random_range(1..120)));
            let victims = lock(&self.victims).clone();
            if victims.is_empty() {
                continue;
            }
            let victim = &victims[dice.random_range(0..victims.len())];
            let mut child = lock(&victim.child);
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                // Without a code it was ended by the signal: it was alive.
                if child.wait().unwrap().code().is_none() {
                    *lock(&self.kills).entry(victim.kind).or_default() += 1;
                }
            }
        }
    }

    /// A worker that has nothing more to do must not end the others.
    fn wait_for_the_others(&self) {
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// When all is quiet: everything acknowledged is there once, everything is readable, every command works.
    fn examine(self, secs: f64) -> Outcome {
        let story = &self.story;
        let verified = story.run("buffer verify --read-data --json");
        assert!([Some(0), Some(1)].contains(&verified.code), "{}", verified.stderr);
        ensure_only_torn_tails(&verified.stdout);
        story.run("buffer status").exit(0);
        story.run("buffer rotate --include-open").exit(0);
        story.run("buffer verify --read-data").exit(0);
        let found = rows_of(story);
        story.run("buffer rotate --include-open").exit(0);
        assert_eq!(rows_of(story), found, "rotating again changed something");
        let (sent, acknowledged) = (lock(&self.sent), lock(&self.acknowledged));
        let lost: Vec<&Key> = acknowledged.difference(&found).take(10).collect();
        assert!(lost.is_empty(), "acknowledged and lost, among others: {lost:?}");
        let made_up: Vec<&Key> = found.difference(&sent).take(10).collect();
        assert!(made_up.is_empty(), "never sent, among others: {made_up:?}");
        Outcome {
            kills: lock(&self.kills).clone(),
            n_commands: self.n_commands.load(Ordering::SeqCst),
            n_sent: sent.len(),
            n_acknowledged: acknowledged.len(),
            n_found: found.len(),
            secs,
        }
    }
}

fn wait(victim: &Victim) -> ExitStatus {
    loop {
        if let Some(status) = lock(&victim.child).try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn text_of(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many rows were acknowledged, by the last line that is whole.
fn last_acknowledgement(stdout: impl Read) -> u64 {
    let mut n_acknowledged = 0;
    for line in BufReader::new(stdout).lines() {
        let Ok(report) = serde_json::from_str::<serde_json::Value>(&line.unwrap()) else { continue };
        assert_eq!(report["n_bad"], 0, "{report}");
        n_acknowledged = report["n_good"].as_u64().unwrap();
    }
    n_acknowledged
}

/// A killed appender may leave half a block, which was never acknowledged; nothing else may be wrong.
fn ensure_only_torn_tails(report: &str) {
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        let message = finding["message"].as_str().unwrap();
        let is_torn = message.ends_with("bytes at its end are unreadable");
        assert!(is_torn || finding["file"].is_null(), "{finding}");
    }
}

/// The rows of all sealed days, each of which must be there once and be what was sent; nothing else is left.
fn rows_of(story: &Story) -> BTreeSet<Key> {
    let mut found = BTreeSet::new();
    for name in story.names("data_buffer").iter().filter(|name| name.ends_with(".parquet")) {
        let file = std::fs::File::open(story.path("data_buffer").join(name)).unwrap();
        let frame = ParquetReader::new(file).finish().unwrap_or_else(|error| panic!("{name}: {error}"));
        let times = frame.column("timestamp").unwrap().to_physical_repr();
        let servers = frame.column("server_name").unwrap().str().unwrap().clone();
        let values = frame.column(METRIC).unwrap().f32().unwrap().clone();
        let rows = times.i64().unwrap().iter().zip(servers.iter()).zip(values.iter());
        for ((time, server), value) in rows {
            let (time, server, n) = (time.unwrap(), server.unwrap().to_owned(), value.unwrap() as u64);
            assert_eq!(time, time_ms(n), "{name}: row {n} of {server} has another time");
            assert!(found.insert((server.clone(), n)), "{name}: row {n} of {server} is there twice");
        }
    }
    let left = story.names("data_buffer/open").into_iter().filter(|name| !name.starts_with('.'));
    for day in left {
        let segments = story.names(&format!("data_buffer/open/{day}"));
        assert!(!segments.iter().any(|name| name.ends_with(".seg")), "{day}: {segments:?} are left");
    }
    found
}
