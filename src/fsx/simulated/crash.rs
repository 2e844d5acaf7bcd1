//! What a power cut leaves of changes that were not synced.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::log::{Log, Op, Tree};

/// What becomes of one change that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// The first half of a write is there.
    Torn,
    /// A write made the file longer, and its bytes are zeros.
    Zeroed,
}

/// Which of the changes that were not synced survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    AllLost,
    AllKept,
    /// Everything is kept, but for the second half of the last write.
    LastWriteTorn,
    /// Files are there, and empty.
    NamesOnly,
    /// Files are there with their lengths, and hold zeros.
    NamesAndLengths,
    /// What was written is there as far as its files are.
    DataOnly,
    /// Each change has a fate of its own, drawn by this seed.
    Random(u64),
}

/// How many of the endless random ones are looked at after each change.
const N_RANDOM: u64 = 4;

impl Crash {
    fn all(seed: u64) -> impl Iterator<Item = Crash> {
        let random = (0..N_RANDOM).map(move |n| Crash::Random(seed.wrapping_mul(1000) + n));
        [
            Crash::AllLost,
            Crash::AllKept,
            Crash::LastWriteTorn,
            Crash::NamesOnly,
            Crash::NamesAndLengths,
            Crash::DataOnly,
        ]
        .into_iter()
        .chain(random)
    }

    /// The fate of each change in `pending`, in order.
    fn fates(self, pending: &[&Op]) -> Vec<Fate> {
        let mut rng = ChaCha8Rng::seed_from_u64(if let Crash::Random(seed) = self { seed } else { 0 });
        let last_write = pending.iter().rposition(|op| matches!(op, Op::Write { .. }));
        let fate = |(at, op): (usize, &&Op)| match self {
            Crash::AllLost => Fate::Lost,
            Crash::LastWriteTorn if Some(at) == last_write => Fate::Torn,
            Crash::AllKept | Crash::LastWriteTorn => Fate::Kept,
            Crash::NamesOnly if op.is_about_names() => Fate::Kept,
            Crash::NamesAndLengths if op.is_about_names() => Fate::Kept,
            Crash::NamesAndLengths => Fate::Zeroed,
            Crash::DataOnly if !op.is_about_names() => Fate::Kept,
            Crash::NamesOnly | Crash::DataOnly => Fate::Lost,
            Crash::Random(_) => match rng.random_range(0..8) {
                0..4 => Fate::Kept,
                4..6 => Fate::Lost,
                6 => Fate::Torn,
                _ => Fate::Zeroed,
            },
        };
        pending.iter().enumerate().map(fate).collect()
    }
}

impl Log {
    /// What is found after the power went when `n_ops` changes were made.
    pub fn after_power_cut(&self, n_ops: usize, crash: Crash) -> Tree {
        let is_durable = self.durable(n_ops);
        let pending: Vec<&Op> = (0..n_ops).filter(|at| !is_durable[*at]).map(|at| &self.ops[at]).collect();
        let mut fates = crash.fates(&pending).into_iter();
        let mut tree = self.initial.clone();
        self.ops.iter().for_each(|op| tree.reserve(op));
        for (op, is_durable) in self.ops[..n_ops].iter().zip(is_durable) {
            let fate = if is_durable { Fate::Kept } else { fates.next().expect("one for each") };
            survive(&mut tree, op, fate);
        }
        tree
    }

    /// Which of the first `n_ops` changes no power cut can undo.
    fn durable(&self, n_ops: usize) -> Vec<bool> {
        let mut is_durable = vec![false; n_ops];
        // A sync that failed has forgotten what it was to write: a later one does not make up for it.
        let mut is_forgotten = vec![false; n_ops];
        for (at, op) in self.ops[..n_ops].iter().enumerate() {
            match op {
                Op::Sync { node } => {
                    let synced = (0..at).filter(|before| self.ops[*before].is_of(*node));
                    synced
                        .filter(|before| !is_forgotten[*before])
                        .for_each(|before| is_durable[before] = true);
                    is_durable[at] = true;
                }
                Op::FailedSync { node } => {
                    let lost = (0..at).filter(|before| self.ops[*before].is_of(*node));
                    lost.filter(|before| !is_durable[*before]).for_each(|before| is_forgotten[before] = true);
                }
                _ => {}
            }
        }
        is_durable
    }
}

fn survive(tree: &mut Tree, op: &Op, fate: Fate) {
    match (op, fate) {
        (_, Fate::Lost) => {}
        (Op::Write { node, offset, bytes }, Fate::Torn) => {
            let bytes = bytes[..bytes.len() / 2].to_vec();
            tree.apply(&Op::Write { node: *node, offset: *offset, bytes });
        }
        (Op::Write { node, offset, bytes }, Fate::Zeroed) => {
            tree.apply(&Op::Write { node: *node, offset: *offset, bytes: vec![0; bytes.len()] });
        }
        _ => tree.apply(op),
    }
}

/// Calls `check` with every different thing that a power cut during the changes from number `first` on can leave.
///
/// `n_promised` says how much was promised by the time so many changes were made; what differs in that is different.
/// Returns how many were checked.
pub fn each_crash(
    log: &Log,
    first: usize,
    n_promised: impl Fn(usize) -> usize,
    mut check: impl FnMut(&Tree, usize, &str),
) -> usize {
    let mut seen = HashSet::new();
    for n_ops in first..=log.n_ops() {
        for crash in Crash::all(n_ops as u64) {
            let tree = log.after_power_cut(n_ops, crash);
            let promised = n_promised(n_ops);
            let mut hasher = DefaultHasher::new();
            (tree.listing(), promised).hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                let last = n_ops.checked_sub(1).map(|last| log.ops[last].brief());
                let told =
                    format!("power cut after {n_ops} changes ({}): {crash:?}", last.unwrap_or_default());
                check(&tree, promised, &told);
            }
        }
    }
    seen.len()
}
