//! Who is in the fleet: profiles, names, what makes each server itself, and who leans on whom.
//!
//! The roster grows at its end: a larger fleet begins with the servers of a smaller one, unchanged, because a
//! server's traits are keyed by its position and it leans only on servers before it.

use crate::schema::GENERIC_PROFILE;

use super::dice::{Dice, Topic};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    MlCompute,
    Database,
    WebApi,
    ConductorMgmt,
    DataIngest,
    RiskAnalytics,
    Generic,
}

/// Mean values of a healthy server on an average hour of the week; percent, MB/s, counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline {
    pub user: f64,
    pub sys: f64,
    pub iowait: f64,
    pub java: f64,
    pub mem: f64,
    pub swap: f64,
    pub disk: f64,
    pub net_in: f64,
    pub net_out: f64,
    pub back_close_wait: f64,
    pub front_close_wait: f64,
    pub load: f64,
}

impl Profile {
    /// Every profile, in the order in which a small fleet gets one of each.
    pub const ALL: [Profile; 7] = [
        Profile::Database,
        Profile::ConductorMgmt,
        Profile::DataIngest,
        Profile::WebApi,
        Profile::MlCompute,
        Profile::RiskAnalytics,
        Profile::Generic,
    ];

    /// The name in a record, as in [`Schema::fleet14`](crate::schema::Schema::fleet14).
    pub fn name(self) -> &'static str {
        match self {
            Profile::MlCompute => "ml_compute",
            Profile::Database => "database",
            Profile::WebApi => "web_api",
            Profile::ConductorMgmt => "conductor_mgmt",
            Profile::DataIngest => "data_ingest",
            Profile::RiskAnalytics => "risk_analytics",
            Profile::Generic => GENERIC_PROFILE,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Profile::MlCompute => "ppml",
            Profile::Database => "ppdb",
            Profile::WebApi => "ppweb",
            Profile::ConductorMgmt => "ppcond",
            Profile::DataIngest => "ppetl",
            Profile::RiskAnalytics => "pprisk",
            Profile::Generic => "ppgen",
        }
    }

    /// Share of a large fleet.
    fn share(self) -> f64 {
        match self {
            Profile::WebApi => 0.28,
            Profile::MlCompute => 0.22,
            Profile::Database => 0.17,
            Profile::DataIngest => 0.11,
            Profile::RiskAnalytics => 0.09,
            Profile::Generic => 0.07,
            Profile::ConductorMgmt => 0.06,
        }
    }

    /// Whether its work happens in Java virtual machines.
    pub(super) fn is_jvm(self) -> bool {
        !matches!(self, Profile::Database | Profile::Generic)
    }

    pub(super) fn baseline(self) -> Baseline {
        let of = |cpu: [f64; 4], fill: [f64; 3], net: [f64; 2], close_wait: [f64; 2], load| Baseline {
            user: cpu[0],
            sys: cpu[1],
            iowait: cpu[2],
            java: cpu[3],
            mem: fill[0],
            swap: fill[1],
            disk: fill[2],
            net_in: net[0],
            net_out: net[1],
            back_close_wait: close_wait[0],
            front_close_wait: close_wait[1],
            load,
        };
        match self {
            Profile::MlCompute => of([45.0, 8.0, 2.0, 50.0], [72.0, 5.0, 55.0], [8.5, 5.2], [2.0, 2.0], 6.5),
            Profile::Database => {
                of([25.0, 12.0, 15.0, 10.0], [68.0, 3.0, 70.0], [35.0, 28.0], [8.0, 6.0], 4.2)
            }
            Profile::WebApi => {
                of([18.0, 5.0, 3.0, 25.0], [45.0, 2.0, 35.0], [85.0, 120.0], [15.0, 12.0], 2.8)
            }
            Profile::ConductorMgmt => {
                of([15.0, 6.0, 2.0, 20.0], [42.0, 2.0, 40.0], [22.0, 18.0], [5.0, 4.0], 3.2)
            }
            Profile::DataIngest => {
                of([35.0, 10.0, 8.0, 45.0], [62.0, 4.0, 65.0], [150.0, 95.0], [10.0, 8.0], 5.5)
            }
            Profile::RiskAnalytics => {
                of([55.0, 8.0, 2.0, 60.0], [70.0, 5.0, 50.0], [12.0, 8.0], [3.0, 2.0], 8.2)
            }
            Profile::Generic => of([12.0, 4.0, 1.0, 8.0], [35.0, 1.0, 30.0], [15.0, 12.0], [2.0, 2.0], 1.5),
        }
    }

    /// What this profile leans on, and how much of a failure there reaches it.
    fn upstreams(self) -> &'static [(Profile, f64)] {
        match self {
            Profile::WebApi => &[(Profile::Database, 0.85)],
            Profile::DataIngest => &[(Profile::Database, 0.75)],
            Profile::RiskAnalytics => &[(Profile::Database, 0.80)],
            Profile::ConductorMgmt => &[(Profile::Database, 0.70)],
            Profile::MlCompute => &[(Profile::ConductorMgmt, 0.90), (Profile::DataIngest, 0.60)],
            Profile::Database | Profile::Generic => &[],
        }
    }
}

/// What makes a server differ from others of its profile, for as long as it lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub cpu_gain: f64,
    pub sys_gain: f64,
    pub iowait_gain: f64,
    pub java_gain: f64,
    pub mem_offset_pct: f64,
    /// Memory a long-running process loses per day.
    pub mem_leak_pct_day: f64,
    pub swap_gain: f64,
    pub disk_start_pct: f64,
    pub disk_growth_pct_day: f64,
    pub disk_cycle_days: f64,
    pub net_in_gain: f64,
    pub net_out_gain: f64,
    pub close_wait_gain: f64,
    pub load_gain: f64,
    /// Its day runs this much later than its profile's.
    pub phase_minutes: f64,
    /// How strongly it follows the rhythm; one is as its profile.
    pub rhythm_depth: f64,
    pub noise_gain: f64,
    /// Local minute of the day at which its own nightly job (backup, compaction) begins, and for how long.
    pub job_minute: f64,
    pub job_minutes: f64,
    pub job_strength: f64,
    /// How long after the first server of its profile it gets a new release.
    pub rollout_minutes: f64,
    /// Incidents it has, compared with the fleet's mean.
    pub incident_gain: f64,
}

/// One server of the fleet.
#[derive(Clone, Debug)]
pub struct Server {
    pub name: String,
    pub profile: Profile,
    /// Fails more often than others and is noisier.
    pub is_fragile: bool,
    pub(super) index: u32,
    pub(super) identity: Identity,
    /// Servers that lean on this one, and how much of a failure here reaches them.
    pub(super) dependants: Vec<(u32, f64)>,
}

/// One server of each so many is fragile, and has so many times the incidents of the fleet's mean.
const ONE_FRAGILE_OF: u32 = 10;
const FRAGILE_GAIN: f64 = 3.0;

/// Servers a dependant can lean on: the last few of that profile before it.
const N_UPSTREAM_CANDIDATES: usize = 3;

/// The first `n_servers` servers of the fleet of these dice.
pub(super) fn roster(n_servers: u32, dice: Dice) -> Vec<Server> {
    let mut counts = [0_u32; Profile::ALL.len()];
    let mut servers: Vec<Server> = Vec::with_capacity(n_servers as usize);
    for index in 0..n_servers {
        let kind = next_profile(&counts);
        counts[kind] += 1;
        let profile = Profile::ALL[kind];
        let (identity, is_fragile) = draw_identity(profile, index, dice);
        for (upstream, strength) in draw_upstreams(&servers, profile, index, dice) {
            servers[upstream as usize].dependants.push((index, strength));
        }
        let name = format!("{}{:04}", profile.prefix(), counts[kind]);
        servers.push(Server { name, profile, is_fragile, index, identity, dependants: Vec::new() });
    }
    servers
}

/// The profile that lags furthest behind its share, once there is one of each.
fn next_profile(counts: &[u32; Profile::ALL.len()]) -> usize {
    let n_after = f64::from(counts.iter().sum::<u32>() + 1);
    let lag = |kind: usize| match counts[kind] {
        0 => f64::INFINITY,
        count => Profile::ALL[kind].share() * n_after - f64::from(count),
    };
    let mut chosen = 0;
    for kind in 1..counts.len() {
        if lag(kind) > lag(chosen) {
            chosen = kind;
        }
    }
    chosen
}

fn draw_identity(profile: Profile, index: u32, dice: Dice) -> (Identity, bool) {
    let mut stream = dice.stream(Topic::Identity, u64::from(index), 0);
    let is_fragile = is_fragile(index, dice);
    let calm_gain = (f64::from(ONE_FRAGILE_OF) - FRAGILE_GAIN) / f64::from(ONE_FRAGILE_OF - 1);
    let disk_cycle_days = stream.between(9.0, 35.0);
    let disk_growth = stream.lognormal(0.45, 0.5);
    let net_gain = stream.lognormal(1.0, 0.28);
    let night_job = stream.between(22.0, 29.0) * 60.0;
    let identity = Identity {
        cpu_gain: stream.lognormal(1.0, 0.18),
        sys_gain: stream.lognormal(1.0, 0.2),
        iowait_gain: stream.lognormal(1.0, 0.3),
        java_gain: stream.lognormal(1.0, 0.08),
        mem_offset_pct: 6.0 * stream.normal(),
        mem_leak_pct_day: stream.lognormal(0.4, 0.6).min(2.0),
        swap_gain: stream.lognormal(1.0, 0.4),
        disk_start_pct: (profile.baseline().disk + 8.0 * stream.normal()).clamp(10.0, 75.0),
        disk_growth_pct_day: disk_growth.clamp(0.1, 18.0 / disk_cycle_days),
        disk_cycle_days,
        net_in_gain: net_gain * stream.lognormal(1.0, 0.1),
        net_out_gain: net_gain * stream.lognormal(1.0, 0.1),
        close_wait_gain: stream.lognormal(1.0, 0.3),
        load_gain: stream.lognormal(1.0, 0.25),
        phase_minutes: 25.0 * stream.normal(),
        rhythm_depth: stream.between(0.75, 1.2),
        noise_gain: stream.lognormal(if is_fragile { 1.4 } else { 1.0 }, 0.2),
        job_minute: night_job % 1440.0,
        job_minutes: stream.between(15.0, 60.0),
        job_strength: stream.lognormal(1.0, 0.4),
        rollout_minutes: stream.between(0.0, 240.0),
        incident_gain: if is_fragile { FRAGILE_GAIN } else { calm_gain },
    };
    (identity, is_fragile)
}

/// Whether `index` is the fragile one of its ten.
fn is_fragile(index: u32, dice: Dice) -> bool {
    let ten = u64::from(index / ONE_FRAGILE_OF);
    let chosen = dice.uniform(Topic::Fragile, ten, 0) * f64::from(ONE_FRAGILE_OF);
    index % ONE_FRAGILE_OF == chosen as u32
}

/// The servers before `index` that it leans on: at least one of each kind it needs, where there is one.
fn draw_upstreams(before: &[Server], profile: Profile, index: u32, dice: Dice) -> Vec<(u32, f64)> {
    let mut stream = dice.stream(Topic::Dependencies, u64::from(index), 0);
    let mut upstreams = Vec::new();
    for (kind, strength) in profile.upstreams() {
        let recent = before.iter().rev().filter(|server| server.profile == *kind);
        for (nth, server) in recent.take(N_UPSTREAM_CANDIDATES).enumerate() {
            if stream.chance(0.5) || nth == 0 {
                upstreams.push((server.index, *strength));
            }
        }
    }
    upstreams
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    #[test]
    fn names_say_the_profile_by_the_rules_of_the_schema() {
        let schema = Schema::fleet14();
        for server in roster(300, Dice::new(1)) {
            assert_eq!(schema.profile_of(&server.name), server.profile.name(), "{}", server.name);
        }
    }

    #[test]
    fn a_small_fleet_has_one_of_each_and_a_large_one_the_shares() {
        let count =
            |n, profile| roster(n, Dice::new(1)).iter().filter(|server| server.profile == profile).count();
        for profile in Profile::ALL {
            assert_eq!(count(7, profile), 1, "{profile:?}");
            let expected = profile.share() * 1000.0;
            assert!((count(1000, profile) as f64 - expected).abs() <= 2.0, "{profile:?}");
        }
        assert!((Profile::ALL.iter().map(|profile| profile.share()).sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_larger_fleet_begins_with_the_smaller_one() {
        let (small, large) = (roster(20, Dice::new(5)), roster(60, Dice::new(5)));
        for (a, b) in small.iter().zip(&large) {
            assert_eq!((&a.name, a.is_fragile), (&b.name, b.is_fragile));
            assert_eq!(a.identity.cpu_gain, b.identity.cpu_gain);
            assert!(b.dependants.starts_with(&a.dependants));
            assert!(b.dependants.iter().all(|(dependant, _)| *dependant > b.index));
        }
    }

    #[test]
    fn incidents_of_the_fragile_do_not_change_the_mean() {
        let gains: Vec<f64> = roster(4000, Dice::new(2)).iter().map(|s| s.identity.incident_gain).collect();
        let mean = gains.iter().sum::<f64>() / gains.len() as f64;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
    }
}
