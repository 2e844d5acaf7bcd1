//! A command on trial: the power is cut after each of its changes, and each of its changes fails.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, Result};

use super::super::STAGING_PREFIX;
use super::crash::Crash;
use super::{Disk, Fault, Log, Tree};

/// A command below a folder, which calls back each time something was promised.
pub type Command<'a> = dyn Fn(&Path, &dyn Fn()) -> Result<()> + 'a;

/// What is done, and what must hold whatever happens meanwhile.
pub struct Trial<'a> {
    /// Makes what is there before.
    pub prepare: &'a dyn Fn(&Path),
    /// Does the command, and calls back each time something was promised; it must promise the same things in the same
    /// order each time.
    pub run: &'a Command<'a>,
    /// Whether what is found is whole and holds the first so many promises; it changes nothing.
    pub check: &'a dyn Fn(&Path, usize) -> Result<()>,
    /// What a person or the clock does before the command is run again; mostly nothing.
    pub recover: &'a dyn Fn(&Path),
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    pub n_changes: usize,
    /// Different states that a power cut left.
    pub n_states: usize,
    /// Changes that were made to fail, over all kinds of faults.
    pub n_faults: usize,
}

/// Nothing.
pub fn nothing(_: &Path) {}

type FaultAt = fn(usize) -> Fault;

const FAULTS: [FaultAt; 4] = [
    |at| Fault::Error { at },
    |from| Fault::Full { from },
    |from| Fault::ReadOnly { from },
    |from| Fault::Dead { from },
];

impl Trial<'_> {
    /// Tries everything, and panics at the first thing that is not as it must be.
    pub fn pass(&self) -> Tried {
        let before = self.before();
        let (n_changes, n_states) = self.cut_the_power(&before);
        println!("{n_changes} changes, {n_states} states left by a power cut");
        let n_faults = FAULTS.iter().map(|fault| self.fail(&before, *fault)).sum();
        let tried = Tried { n_changes, n_states, n_faults };
        println!("{n_faults} faults");
        assert!(n_changes > 0 && n_states > n_changes / 8 && n_faults >= 3 * n_changes, "{tried:?}");
        tried
    }

    fn before(&self) -> Tree {
        on_disk(&Tree::default(), |root, _| {
            (self.prepare)(root);
            Tree::of_folder(root)
        })
    }

    /// Every state that a power cut can leave: how many changes there were, and how many states.
    fn cut_the_power(&self, before: &Tree) -> (usize, usize) {
        let (log, promised_at) = on_disk(before, |root, disk| {
            let promised_at = RefCell::new(Vec::new());
            (self.run)(root, &|| promised_at.borrow_mut().push(disk.position())).unwrap();
            (disk.log(), promised_at.into_inner())
        });
        let n_promised = |n_ops: usize| promised_at.iter().filter(|at| **at <= n_ops).count();
        let mut seen = HashSet::new();
        for n_ops in 0..=log.n_ops() {
            for crash in Crash::all(n_ops as u64) {
                let found = log.after_power_cut(n_ops, crash);
                if seen.insert(identity(&found, n_promised(n_ops))) {
                    self.start_again(&found, n_promised(n_ops), promised_at.len())
                        .with_context(|| describe(&log, n_ops, crash))
                        .unwrap_or_else(|error| panic!("{error:#}"));
                }
            }
        }
        (log.n_ops(), seen.len())
    }

    /// The next start after a crash: what was promised is there, and the command succeeds now.
    fn start_again(&self, found: &Tree, n_promised: usize, n_all: usize) -> Result<()> {
        on_disk(found, |root, _| {
            (self.check)(root, n_promised).context("look at what was left")?;
            (self.recover)(root);
            (self.run)(root, &|| {}).context("run it again")?;
            (self.check)(root, n_all).context("look at what came of running it again")
        })
    }

    /// The command on a disk that fails at each change in turn: how often it was met.
    fn fail(&self, before: &Tree, fault: FaultAt) -> usize {
        let mut n_met = 0;
        for at in 0.. {
            let met = self
                .fail_at(before, fault(at))
                .with_context(|| format!("{:?}", fault(at)))
                .unwrap_or_else(|error| panic!("{error:#}"));
            if !met {
                break;
            }
            n_met += 1;
        }
        n_met
    }

    fn fail_at(&self, before: &Tree, fault: Fault) -> Result<bool> {
        on_disk(before, |root, disk| {
            let promised = RefCell::new(0);
            disk.set_fault(fault);
            let outcome = (self.run)(root, &|| *promised.borrow_mut() += 1);
            let was_met = disk.heal();
            let n_promised = promised.into_inner();
            let told = || match &outcome {
                Ok(()) => "it said it was done".to_owned(),
                Err(error) => format!("it said {error:#}"),
            };
            if !was_met {
                outcome?;
                return Ok(false);
            }
            (self.check)(root, n_promised).context("look at what was left").with_context(told)?;
            // The power goes while nobody runs, and again after the next run, which found what was not durable yet.
            let n_ops = disk.position();
            for crash in [Crash::AllLost, Crash::Random(n_ops as u64)] {
                let found = disk.log().after_power_cut(n_ops, crash);
                self.check_tree(&found, n_promised)
                    .with_context(told)
                    .with_context(|| format!("{crash:?}"))?;
            }
            (self.recover)(root);
            let promised = RefCell::new(0);
            (self.run)(root, &|| *promised.borrow_mut() += 1).context("run it again").with_context(told)?;
            (self.check)(root, promised.clone().into_inner())
                .context("look at what came of running it again")?;
            let found = disk.log().after_power_cut(disk.position(), Crash::AllLost);
            self.check_tree(&found, promised.into_inner())
                .context("cut the power after it was run again")
                .with_context(told)?;
            Ok(true)
        })
    }

    fn check_tree(&self, found: &Tree, n_promised: usize) -> Result<()> {
        on_disk(found, |root, _| (self.check)(root, n_promised))
    }
}

/// Works in a folder that lies on a simulated disk and begins with `before`.
fn on_disk<T>(before: &Tree, work: impl FnOnce(&Path, &Disk) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    before.write_to(&root);
    let disk = Disk::under(&root);
    work(&root, &disk)
}

/// What two states with the same number cannot be told apart by: nobody reads what is in staged work.
fn identity(tree: &Tree, n_promised: usize) -> u64 {
    let mut listing = tree.listing();
    for (path, bytes) in &mut listing {
        if let Some(at) = path.find(STAGING_PREFIX) {
            path.truncate(at);
            *bytes = None;
        }
    }
    listing.dedup();
    let mut hasher = DefaultHasher::new();
    (listing, n_promised).hash(&mut hasher);
    hasher.finish()
}

fn describe(log: &Log, n_ops: usize, crash: Crash) -> String {
    let first = n_ops.saturating_sub(6);
    let last: Vec<String> = log.ops[first..n_ops].iter().map(|op| op.brief()).collect();
    format!("power cut after {n_ops} changes ({crash:?}); the last were\n{}", last.join("\n"))
}
