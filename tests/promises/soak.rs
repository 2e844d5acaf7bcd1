//! Nothing acknowledged is lost, whoever is killed when: the real binary, many of it at once, and SIGKILL.

use std::time::Duration;

use crate::common::soak::{Plan, soak};

#[test]
fn nothing_acknowledged_is_lost_however_often_and_whoever_is_killed() {
    let outcome = soak(Plan { seed: 1, n_kills: 100, at_most: Duration::from_secs(80) });
    println!("{outcome}");
    // A slow machine kills less often, but a soak that hits nobody shows nothing.
    assert!(outcome.n_kills() >= 20 && outcome.kills.len() >= 4, "too few were killed: {outcome}");
    assert!(outcome.n_acknowledged > 0 && outcome.n_found >= outcome.n_acknowledged, "{outcome}");
}

/// `scripts/soak` runs this one with numbers of its own.
#[test]
#[ignore = "takes as long as one likes: see scripts/soak"]
fn a_long_soak() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let (n_kills, minutes) = (number("SOAK_KILLS", 1000), number("SOAK_MINUTES", 60));
    let plan = Plan { seed: number("SOAK_SEED", 1), n_kills, at_most: Duration::from_secs(60 * minutes) };
    let outcome = soak(plan);
    println!("{plan:?}\n{outcome}");
    assert!(outcome.n_kills() >= n_kills, "the time was over after {} kills", outcome.n_kills());
}
