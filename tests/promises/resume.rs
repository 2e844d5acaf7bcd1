//! A training that is killed at any moment and started again ends in the same bits as one that never was.
//!
//! Every process is the real program, killed by SIGKILL (on Windows: `TerminateProcess`). `KILL_SEED=N` changes the
//! moments.

use std::fs;
#[cfg(unix)]
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;
use tftctl::fsx::sha256_bytes;
use tftctl::ops::random::Key;

use crate::common::Story;

/// 16 batches an epoch, and a checkpoint after each.
const SETTINGS: [(&str, &str); 2] =
    [("training.checkpoint_secs", "0"), ("training.samples_per_epoch", "512")];
const N_BATCHES: u64 = 32;
const TRAIN: &str = "train --epochs 2 --resume --device cpu";
/// A process that did not get so far in this time is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// What must not depend on how often a run was stopped.
#[derive(Debug, PartialEq)]
struct Ending {
    weights_sha256: Value,
    total_epochs: Value,
    total_steps: Value,
    total_batches: Value,
    losses: Value,
    guard: Value,
    weights: String,
    moments: String,
    mean: Option<String>,
}

impl Ending {
    #[track_caller]
    fn of(story: &Story) -> Self {
        let models = story.run("models list --json").exit(0).json();
        assert_eq!(models.as_array().unwrap().len(), 1, "one run, one model: {models}");
        let state = story.training_state();
        assert_eq!(state["run"]["ended"], "complete", "{state}");
        let file = |name: &str| fs::read(story.path("checkpoints/last").join(name)).map(|b| sha256_bytes(&b));
        Self {
            weights_sha256: models[0]["weights_sha256"].clone(),
            total_epochs: models[0]["total_epochs"].clone(),
            total_steps: state["total_steps"].clone(),
            total_batches: state["total_batches"].clone(),
            losses: state["run"]["losses"].clone(),
            guard: state["run"]["guard"].clone(),
            weights: file("model.safetensors").unwrap(),
            moments: file("optimizer.safetensors").unwrap(),
            mean: file("ema.safetensors").ok(),
        }
    }
}

/// The ending of a run that nobody disturbs, and how long it took. The site is left as if it had never trained.
fn unbroken(story: &Story) -> (Ending, Duration) {
    let started = Instant::now();
    story.run(TRAIN).exit(0);
    let took = started.elapsed();
    let ending = Ending::of(story);
    assert_eq!((ending.total_epochs.as_u64(), ending.total_batches.as_u64()), (Some(2), Some(N_BATCHES)));
    story.forget_training();
    (ending, took)
}

fn batches_done(story: &Story) -> u64 {
    story.training_state()["total_batches"].as_u64().unwrap_or(0)
}

fn is_staged(story: &Story, folder: &str) -> bool {
    story.names(folder).iter().any(|name| name.starts_with(".staging-"))
}

/// Waits for a sign of the process; false if it ended first, which must be a good end.
#[track_caller]
fn wait_for(child: &mut Child, sign: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !sign() {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "a process that nobody killed failed: {status}");
            return false;
        }
        assert!(started.elapsed() < PATIENCE, "the process never gave its sign");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Starts the training, waits for `sign`, then for `pause`, and kills it; whether that hit a living process.
#[track_caller]
fn kill_at(story: &Story, sign: impl Fn() -> bool, pause: Duration) -> bool {
    let mut child = story.command(TRAIN).spawn().unwrap();
    if !wait_for(&mut child, sign) {
        return false;
    }
    std::thread::sleep(pause);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() || status.code() != Some(1), "killed, not failed: {status}");
    !status.success()
}

/// A moment to kill at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Any time after so many batches are in a checkpoint.
    Random,
    /// While a checkpoint is being written.
    Staging,
    /// As soon as an epoch is over.
    EpochTurn,
}

/// Moments spread over the whole run, in its order: batches in the checkpoint, and what to wait for then.
fn moments(key: Key, n_random: u64) -> Vec<(u64, Moment)> {
    let somewhere = |place: u64| (key.uniform(place) * (N_BATCHES - 2) as f64) as u64;
    let mut moments: Vec<(u64, Moment)> = (0..n_random).map(|n| (somewhere(n), Moment::Random)).collect();
    moments.extend((0..4).map(|n| (somewhere(1000 + n), Moment::Staging)));
    // The first checkpoint, and the turn of the epoch.
    moments.extend([(1, Moment::Random), (N_BATCHES / 2, Moment::EpochTurn)]);
    moments.sort_unstable();
    moments
}

/// Kills one run at each of `moments`, unless it ends first, then between its last checkpoint and its model, and
/// lets it finish. Returns the number of kills that hit.
fn break_run(story: &Story, moments: &[(u64, Moment)], key: Key, per_batch: Duration) -> u32 {
    let mut n_kills = 0;
    for (number, (n_batches, moment)) in moments.iter().enumerate() {
        if !story.models().is_empty() {
            break;
        }
        let sign = || {
            batches_done(story) >= *n_batches
                && match moment {
                    Moment::Random => true,
                    Moment::Staging => is_staged(story, "checkpoints"),
                    Moment::EpochTurn => story.training_state()["run"]["epochs_done"] == 1,
                }
        };
        let pause = match moment {
            Moment::Random => per_batch.mul_f64(2.0 * key.uniform(2000 + number as u64)),
            _ => Duration::ZERO,
        };
        let has_hit = kill_at(story, sign, pause);
        n_kills += u32::from(has_hit);
        println!(
            "{moment:?} after {n_batches} batches and {pause:?}: hit {has_hit}, {} in the checkpoint",
            batches_done(story)
        );
    }
    n_kills += kill_before_the_model(story);
    if story.models().is_empty() {
        story.run(TRAIN).exit(0);
    }
    n_kills
}

/// Kills when the last checkpoint is written and its model is not; tries again where the program was faster.
fn kill_before_the_model(story: &Story) -> u32 {
    let mut n_kills = 0;
    for _ in 0..50 {
        let has_ended = || story.training_state()["run"]["ended"] == "complete";
        let sign = || has_ended() && (is_staged(story, "models") || !story.models().is_empty());
        n_kills += u32::from(kill_at(story, sign, Duration::ZERO));
        if story.models().is_empty() {
            return n_kills;
        }
        // Too late. Without its model the run is where it was: trained, and not published.
        fs::remove_dir_all(story.path("models")).unwrap();
        let _absent = fs::remove_file(story.path("checkpoints/published.json"));
    }
    panic!("no kill fell between the last checkpoint and the model");
}

/// Breaks runs until at least `n_wanted` kills hit; each ends like the unbroken one.
fn same_bits_after(settings: &[(&str, &str)], n_random: u64, n_wanted: u32) {
    let seed = std::env::var("KILL_SEED").map_or(1, |text| text.parse().expect("KILL_SEED is a number"));
    let story = Story::ready_to_train(&[&SETTINGS, settings].concat());
    let (expected, took) = unbroken(&story);
    println!("KILL_SEED={seed}; unbroken in {took:?}: {expected:?}");
    let (mut n_kills, mut n_runs) = (0, 0);
    while n_kills < n_wanted {
        assert!(n_runs < 5, "only {n_kills} kills hit in {n_runs} runs");
        let key = Key::new(seed).number(n_runs);
        n_kills += break_run(&story, &moments(key, n_random), key, took / N_BATCHES as u32);
        assert_eq!(Ending::of(&story), expected, "KILL_SEED={seed}");
        story.forget_training();
        n_runs += 1;
    }
    println!("{n_kills} kills in {n_runs} runs");
}

#[test]
fn a_run_killed_twenty_times_ends_in_the_same_bits() {
    same_bits_after(&[], 18, 20);
}

#[test]
fn so_does_one_with_a_mean_of_its_weights() {
    same_bits_after(&[("training.ema_decay", "0.9")], 4, 8);
}

/// Starts the training, sends it `signal` after `pause`, and returns the batches in its checkpoint; none if it ended
/// by itself.
#[cfg(unix)]
#[track_caller]
fn signal_after(story: &Story, signal: &str, pause: Duration) -> Option<u64> {
    let mut child = story.command(TRAIN).spawn().unwrap();
    // From this line on the program listens to signals.
    let mut talk = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(talk.any(|line| line.unwrap().contains("training on")));
    std::thread::sleep(pause);
    let sent = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success(), "a child that was not waited for can be sent to");
    let rest: Vec<String> = talk.map(Result::unwrap).collect();
    match child.wait().unwrap().code() {
        Some(130) => Some(batches_done(story)),
        Some(0) => None,
        code => panic!("{signal}: exit code {code:?}: {rest:?}"),
    }
}

#[cfg(unix)]
#[test]
fn a_run_interrupted_by_signals_ends_in_the_same_bits() {
    let story = Story::ready_to_train(&SETTINGS);
    // Only the signal writes a checkpoint in mid-epoch.
    story.set("training.checkpoint_secs", "3600");
    let (expected, took) = unbroken(&story);
    let (mut n_batches, mut pause) = (vec![0], took / N_BATCHES as u32);
    for signal in ["-TERM", "-INT"].into_iter().cycle().take(12) {
        let Some(n_done) = signal_after(&story, signal, pause) else { break };
        // A machine that has become slower since the unbroken run needs longer for a batch.
        if n_done == *n_batches.last().unwrap() {
            pause = pause.mul_f64(1.5);
        } else {
            n_batches.push(n_done);
        }
        if n_batches.len() > 4 {
            break;
        }
    }
    println!("batches done at the signals: {n_batches:?}");
    assert!(n_batches.len() > 2 && n_batches.is_sorted(), "{n_batches:?}");
    assert!(n_batches.iter().any(|n| ![0, N_BATCHES / 2, N_BATCHES].contains(n)), "none in mid-epoch");
    if story.models().is_empty() {
        story.run(TRAIN).exit(0);
    }
    assert_eq!(Ending::of(&story), expected);
}
