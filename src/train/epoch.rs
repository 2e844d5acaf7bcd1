//! What one epoch is: which samples it takes, and which servers are in memory when. A function of (seed, epoch), the
//! window and the settings; nothing of it is stored.
//!
//! A window in memory is one *part*. A larger one is dealt out: its blocks of servers are shuffled, and so many as fit
//! into memory make a part, so that an epoch meets other company in another order than the last. Batches are cut inside a
//! part. Every sample has the same chance to be taken, and none is taken twice:
//!
//! - `sample_stride` N takes every N-th cutoff of a server, beginning with one of its first N, each as likely;
//! - `samples_per_epoch` is shared out over the parts by their size: the share of a part is rounded up or down by one
//!   draw for all, so that its mean over epochs is exact, and inside the part any subset is as likely.

use std::ops::Range;

use crate::config::TrainingConfig;
use crate::dataset::{Cutoffs, SampleKey, Survey};
use crate::ops::random::Key;
use crate::window::Feed;

use super::order::epoch_order;

/// An epoch of a run.
pub struct Epoch {
    seed: u64,
    epoch: u64,
    pub parts: Vec<Part>,
}

/// Servers that are in memory together, and what the epoch takes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number in the epoch; none where there is no other.
    number: Option<u64>,
    /// Blocks of the feed, ascending.
    pub blocks: Vec<usize>,
    /// Samples to choose from.
    n_samples: u64,
    /// Samples taken.
    n_taken: u64,
}

/// Samples and batches of some epochs or parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub n_samples: u64,
    pub n_batches: u64,
}

impl Epoch {
    /// Plans the epoch number `epoch` of a lineage.
    pub fn plan(feed: &Feed, survey: &Survey, settings: &TrainingConfig, seed: u64, epoch: u64) -> Self {
        let strides = Strides { seed, epoch, stride: settings.sample_stride };
        let mut parts = deal(feed, seed, epoch);
        for part in &mut parts {
            let servers = part.blocks.iter().flat_map(|block| feed.blocks()[*block].clone());
            part.n_samples = servers.map(|server| strides.count(survey, server)).sum();
        }
        share_out(&mut parts, settings.samples_per_epoch as u64, seed, epoch);
        Self { seed, epoch, parts }
    }

    /// Samples and batches of `batch_size` in the whole epoch.
    pub fn size(&self, batch_size: usize) -> Size {
        let add = |sum: Size, part: &Part| sum.plus(part.size(batch_size));
        self.parts.iter().fold(Size::default(), add)
    }

    /// The samples of a part in the order in which they are trained; their servers are positions in the part's grid.
    pub fn samples<'a>(
        &self,
        part: &Part,
        feed: &Feed,
        survey: &'a Survey,
        settings: &TrainingConfig,
    ) -> PartSamples<'a> {
        let strides = Strides { seed: self.seed, epoch: self.epoch, stride: settings.sample_stride };
        let servers: Vec<usize> =
            part.blocks.iter().flat_map(|block| feed.blocks()[*block].clone()).collect();
        let (n, n_taken) = (part.n_samples as usize, part.n_taken as usize);
        // 0 would ask for all.
        let order = if n_taken == 0 {
            Vec::new()
        } else {
            epoch_order(n, n_taken, self.seed, self.epoch, part.number)
        };
        PartSamples { order, servers: strides.runs(survey, &servers), stride: settings.sample_stride }
    }
}

/// The blocks of `feed`, dealt out to as few parts as memory allows.
fn deal(feed: &Feed, seed: u64, epoch: u64) -> Vec<Part> {
    let n_blocks = feed.blocks().len();
    let n_parts = n_blocks.div_ceil(feed.n_at_once()).max(1);
    let part = |number: Option<u64>, blocks: Vec<usize>| Part { number, blocks, n_samples: 0, n_taken: 0 };
    if n_parts == 1 {
        return vec![part(None, (0..n_blocks).collect())];
    }
    let key = Key::new(seed).name("blocks").number(epoch);
    let mut blocks: Vec<usize> = (0..n_blocks).collect();
    blocks.sort_by_key(|block| (key.bits(*block as u64), *block));
    let share = |number: usize| number * n_blocks / n_parts..(number + 1) * n_blocks / n_parts;
    let deal = |number: usize| {
        let mut blocks = blocks[share(number)].to_vec();
        blocks.sort_unstable();
        part(Some(number as u64), blocks)
    };
    (0..n_parts).map(deal).collect()
}

/// Shares `n_wanted` (0: all) out over the parts by their size; see the module.
fn share_out(parts: &mut [Part], n_wanted: u64, seed: u64, epoch: u64) {
    let n_all: u64 = parts.iter().map(|part| part.n_samples).sum();
    let n_taken = if n_wanted == 0 { n_all } else { n_wanted.min(n_all) };
    let draw = (Key::new(seed).name("shares").number(epoch).uniform(0) * n_all as f64) as u64;
    let mut n_before = 0;
    let share_up_to = |n_samples: u64| {
        let wide = u128::from(n_samples) * u128::from(n_taken) + u128::from(draw);
        (wide / u128::from(n_all.max(1))) as u64
    };
    for part in parts {
        let n_after = n_before + part.n_samples;
        part.n_taken = share_up_to(n_after) - share_up_to(n_before);
        n_before = n_after;
    }
}

impl Part {
    /// Samples and batches of `batch_size`.
    pub fn size(&self, batch_size: usize) -> Size {
        Size { n_samples: self.n_taken, n_batches: self.n_taken.div_ceil(batch_size as u64) }
    }
}

impl Size {
    pub fn plus(self, more: Size) -> Self {
        Self { n_samples: self.n_samples + more.n_samples, n_batches: self.n_batches + more.n_batches }
    }
}

/// Which cutoffs of a server an epoch can take.
struct Strides {
    seed: u64,
    epoch: u64,
    stride: usize,
}

impl Strides {
    /// Places among the cutoffs of `server`, `stride` apart.
    fn places(&self, survey: &Survey, server: usize) -> Range<usize> {
        let key = Key::new(self.seed).name("stride").number(self.epoch);
        let first = (key.uniform(server as u64) * self.stride as f64) as usize;
        let n = survey.servers[server].cutoffs.len();
        first.min(self.stride - 1).min(n)..n
    }

    fn count(&self, survey: &Survey, server: usize) -> u64 {
        self.places(survey, server).len().div_ceil(self.stride) as u64
    }

    fn runs<'a>(&self, survey: &'a Survey, servers: &[usize]) -> Vec<ServerRun<'a>> {
        let mut n_before = 0;
        let run = |(position, server): (usize, &usize)| {
            let (first, cutoffs) = (self.places(survey, *server).start, &survey.servers[*server].cutoffs);
            let run = ServerRun { n_before, position, first, cutoffs };
            n_before += self.count(survey, *server) as usize;
            run
        };
        servers.iter().enumerate().map(run).collect()
    }
}

/// The samples of one part in their order, without a list of them: four bytes each.
pub struct PartSamples<'a> {
    /// Places among the samples of all `servers`.
    order: Vec<u32>,
    servers: Vec<ServerRun<'a>>,
    stride: usize,
}

/// What can be taken of one server.
struct ServerRun<'a> {
    /// Samples of the servers before.
    n_before: usize,
    /// Of the server in the part's grid.
    position: usize,
    /// Place of its first sample among its cutoffs.
    first: usize,
    cutoffs: &'a Cutoffs,
}

impl PartSamples<'_> {
    /// The samples, batch by batch.
    pub fn batches(&self, batch_size: usize) -> impl Iterator<Item = Vec<SampleKey>> {
        self.order.chunks(batch_size).map(|places| places.iter().map(|place| self.key(*place)).collect())
    }

    fn key(&self, place: u32) -> SampleKey {
        let place = place as usize;
        let run = &self.servers[self.servers.partition_point(|run| run.n_before <= place) - 1];
        let nth = run.first + (place - run.n_before) * self.stride;
        SampleKey::new(run.position, run.cutoffs.at(nth) as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dataset::survey::ServerSurvey;
    use crate::window::testing::feed_in_parts;
    use crate::window::{Grid, Server};

    /// Cutoffs of each of five servers: some have gaps, one has nothing.
    fn survey(outline: Grid) -> Survey {
        let runs: [&[(usize, usize)]; 5] = [&[(4, 24)], &[(6, 9), (14, 25)], &[], &[(4, 5)], &[(4, 30)]];
        let server = |runs: &&[(usize, usize)]| ServerSurvey {
            cutoffs: runs.iter().map(|(first, end)| *first..*end).collect(),
            moments: Vec::new(),
        };
        Survey { outline, servers: runs.iter().map(server).collect() }
    }

    const N_ALL: u64 = 20 + 14 + 1 + 26;

    struct Bench {
        _dir: tempfile::TempDir,
        feed: Feed,
        survey: Survey,
    }

    /// Five servers of which `n_at_once` are in memory.
    fn bench(n_at_once: usize) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let server = |i: usize| Server { name: format!("s{i}"), profile: "generic".into() };
        let grid = Grid {
            servers: (0..5).map(server).collect(),
            metrics: vec!["cpu".into()],
            statuses: vec![],
            start_ms: 0,
            step_secs: 300,
            n_steps: 34,
            values: vec![1.0; 5 * 34],
            status: vec![0; 5 * 34],
        };
        let feed = feed_in_parts(dir.path(), &grid, n_at_once);
        Bench { _dir: dir, survey: survey(grid.outline()), feed }
    }

    fn settings(samples_per_epoch: usize, sample_stride: usize) -> TrainingConfig {
        TrainingConfig { samples_per_epoch, sample_stride, ..TrainingConfig::default() }
    }

    /// The samples of an epoch in their order, with servers by their position in the window.
    fn taken(bench: &Bench, settings: &TrainingConfig, epoch: u64) -> Vec<(usize, u32)> {
        let plan = Epoch::plan(&bench.feed, &bench.survey, settings, 7, epoch);
        let mut taken = Vec::new();
        for part in &plan.parts {
            let servers: Vec<usize> =
                part.blocks.iter().flat_map(|block| bench.feed.blocks()[*block].clone()).collect();
            let samples = plan.samples(part, &bench.feed, &bench.survey, settings);
            let before = taken.len();
            for keys in samples.batches(4) {
                taken.extend(keys.iter().map(|key| (servers[key.server as usize], key.cutoff)));
            }
            assert_eq!((taken.len() - before) as u64, part.size(4).n_samples);
        }
        assert_eq!(taken.len() as u64, plan.size(4).n_samples);
        taken
    }

    fn all(bench: &Bench) -> Vec<(usize, u32)> {
        let servers = bench.survey.servers.iter().enumerate();
        servers.flat_map(|(i, s)| (0..s.cutoffs.len()).map(move |place| (i, s.cutoffs.at(place)))).collect()
    }

    #[test]
    fn an_epoch_meets_each_sample_once_in_parts_and_in_memory() {
        for n_at_once in [1, 2, 3, 4, 5] {
            let bench = bench(n_at_once);
            let mut orders = Vec::new();
            for epoch in 0..4 {
                let mut met = taken(&bench, &settings(0, 1), epoch);
                orders.push(met.clone());
                met.sort_unstable();
                assert_eq!(met, all(&bench), "{n_at_once} at once, epoch {epoch}");
            }
            assert_ne!(orders[0], orders[1]);
            assert_eq!(orders[3], taken(&bench, &settings(0, 1), 3));
        }
    }

    #[test]
    fn the_company_in_memory_changes_from_epoch_to_epoch() {
        let bench = bench(2);
        let companies = |epoch| {
            let plan = Epoch::plan(&bench.feed, &bench.survey, &settings(0, 1), 7, epoch);
            assert_eq!(plan.parts.len(), 3);
            assert!(plan.parts.iter().all(|part| (1..=2).contains(&part.blocks.len())));
            plan.parts.into_iter().map(|part| part.blocks).collect::<Vec<_>>()
        };
        assert!((1..6).any(|epoch| companies(epoch) != companies(0)));
    }

    #[test]
    fn a_window_in_memory_has_the_order_it_always_had() {
        let mut bench = bench(5);
        bench.feed = Feed::from(bench.feed.read(&[0, 1, 2, 3, 4]).unwrap());
        let keys = all(&bench);
        let order = epoch_order(keys.len(), 40, 7, 3, None);
        let expected: Vec<(usize, u32)> = order.iter().map(|place| keys[*place as usize]).collect();
        assert_eq!(taken(&bench, &settings(40, 1), 3), expected);
    }

    /// How often each sample is taken in so many epochs.
    fn counts(bench: &Bench, settings: &TrainingConfig, n_epochs: u64) -> BTreeMap<(usize, u32), u32> {
        let mut counts: BTreeMap<_, _> = all(bench).into_iter().map(|sample| (sample, 0)).collect();
        for epoch in 0..n_epochs {
            for sample in taken(bench, settings, epoch) {
                *counts.get_mut(&sample).unwrap() += 1;
            }
        }
        counts
    }

    #[test]
    fn every_sample_has_the_same_chance() {
        let n_epochs = 4000;
        for (n_at_once, n_taken, stride) in [(5, 13, 1), (2, 13, 1), (1, 13, 1), (5, 0, 4), (2, 0, 4)] {
            let bench = bench(n_at_once);
            let share = if n_taken == 0 { 1.0 / stride as f64 } else { n_taken as f64 / N_ALL as f64 };
            let expected = n_epochs as f64 * share;
            // Five standard deviations of a coin that is tossed once an epoch.
            let slack = 5.0 * (expected * (1.0 - share)).sqrt();
            for (sample, n) in counts(&bench, &settings(n_taken, stride), n_epochs) {
                assert!(
                    (f64::from(n) - expected).abs() < slack,
                    "{sample:?}: {n} times instead of {expected:.0}; {n_at_once} at once, stride {stride}"
                );
            }
        }
    }

    #[test]
    fn a_stride_takes_cutoffs_that_far_apart_and_all_in_the_end() {
        let bench = bench(5);
        for epoch in 0..20 {
            let mut of_last: Vec<u32> = taken(&bench, &settings(0, 4), epoch)
                .into_iter()
                .filter_map(|(server, cutoff)| (server == 4).then_some(cutoff))
                .collect();
            of_last.sort_unstable();
            assert!(of_last[0] < 4 + 4 && of_last.windows(2).all(|pair| pair[1] - pair[0] == 4));
        }
        assert!(counts(&bench, &settings(0, 4), 40).values().all(|n| *n > 0));
    }

    #[test]
    fn the_number_of_samples_is_kept_when_shared_out() {
        for n_at_once in [1, 2, 5] {
            let bench = bench(n_at_once);
            for (n_wanted, n_expected) in [(0, N_ALL), (1, 1), (17, 17), (60, 60), (1000, N_ALL)] {
                for epoch in 0..50 {
                    let plan = Epoch::plan(&bench.feed, &bench.survey, &settings(n_wanted, 1), 7, epoch);
                    assert_eq!(plan.size(64).n_samples, n_expected);
                }
            }
        }
    }
}
