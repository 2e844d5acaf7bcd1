//! From what a server does to what its agent reports: the fourteen metrics of `fleet14`.
//!
//! One demand drives them all: processors, Java, network and load rise and fall together, each with noise of
//! its own, and press against ceilings softly. The four processor shares sum to 100 to the last hundredth.
//! Percentages and rates are rounded to two decimals, as agents do; counts and uptime are whole numbers.

use super::noise::{BUSY, Colour, FAST, SLOW};
use super::roster::{Baseline, Identity};

/// Names of the metrics, in the order of [`Schema::fleet14`](crate::schema::Schema::fleet14).
pub const METRICS: [&str; 14] = [
    "cpu_user_pct",
    "cpu_sys_pct",
    "cpu_iowait_pct",
    "cpu_idle_pct",
    "java_cpu_pct",
    "mem_used_pct",
    "swap_used_pct",
    "disk_usage_pct",
    "net_in_mb_s",
    "net_out_mb_s",
    "back_close_wait",
    "front_close_wait",
    "load_average",
    "uptime_days",
];

/// Positions of the network rates in [`METRICS`].
pub(super) const NET: [usize; 2] = [8, 9];

/// Whether a metric of [`METRICS`] is a whole number.
pub(super) const IS_COUNT: [bool; 14] =
    [false, false, false, false, false, false, false, false, false, false, true, true, false, true];

/// A server's own noise: demand, sys, iowait, java, mem, swap, net in, net out, back, front, load.
pub(super) const CHANNELS: [Colour; 11] = [BUSY, FAST, BUSY, FAST, SLOW, SLOW, BUSY, FAST, FAST, FAST, FAST];

/// What incidents add to a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Strain {
    pub user_pct: f64,
    pub sys_pct: f64,
    pub iowait_pct: f64,
    pub mem_pct: f64,
    pub disk_pct: f64,
    pub back_close_wait: f64,
    pub front_close_wait: f64,
    pub demand_factor: f64,
    pub net_factor: f64,
    pub load_factor: f64,
}

impl Strain {
    /// Nothing is wrong.
    pub(super) const NONE: Strain = Strain {
        user_pct: 0.0,
        sys_pct: 0.0,
        iowait_pct: 0.0,
        mem_pct: 0.0,
        disk_pct: 0.0,
        back_close_wait: 0.0,
        front_close_wait: 0.0,
        demand_factor: 1.0,
        net_factor: 1.0,
        load_factor: 1.0,
    };
}

/// Everything that decides a server's metrics at one moment.
#[derive(Clone, Debug)]
pub(super) struct Circumstances<'a> {
    pub baseline: &'a Baseline,
    pub identity: &'a Identity,
    pub is_jvm: bool,
    /// Rhythm, state and what the fleet shares; one on average. Incidents and own noise come on top.
    pub demand: f64,
    /// How much of the nightly job runs.
    pub job: f64,
    pub strain: Strain,
    /// Own noise, by [`CHANNELS`].
    pub noise: [f64; CHANNELS.len()],
    /// Error of this one observation: processors, iowait, network, load.
    pub jitter: [f64; 4],
    pub disk_pct: f64,
    /// Days since the processes were last restarted.
    pub restarted_days: f64,
    pub uptime_days: f64,
}

/// Spread of the logarithm of demand that is a server's own.
const DEMAND_SPREAD: f64 = 0.14;

/// The metrics of a server that is up.
pub(super) fn metrics(now: &Circumstances<'_>) -> [f64; 14] {
    let demand = demand(now);
    let (mem, mem_pressure) = memory(now, demand);
    let cpu = processors(now, demand, mem_pressure);
    let [user, sys, iowait] = cpu.shares_centi.map(|centi| centi as f64 / 100.0);
    let idle = (10_000 - cpu.shares_centi.iter().sum::<i64>()) as f64 / 100.0;
    let [net_in, net_out] = network(now, demand);
    let [back, front] = close_wait(now, demand);
    [
        user,
        sys,
        iowait,
        idle,
        java(now, demand, user, mem),
        round2(mem),
        swap(now, mem_pressure),
        round2(soft_ceiling(now.disk_pct + now.strain.disk_pct, 90.0, 99.5)),
        net_in,
        net_out,
        back,
        front,
        load(now, &cpu),
        now.uptime_days.max(0.0).floor(),
    ]
}

/// What the server is asked to do, with its own noise and what incidents take or add.
fn demand(now: &Circumstances<'_>) -> f64 {
    let noise = (DEMAND_SPREAD * now.identity.noise_gain * now.noise[0]).exp();
    (now.demand * noise * now.strain.demand_factor).min(4.0)
}

/// Processor shares in hundredths of a percent, and what was asked of them.
struct Processors {
    shares_centi: [i64; 3],
    asked_pct: f64,
}

fn processors(now: &Circumstances<'_>, demand: f64, mem_pressure: f64) -> Processors {
    let (base, own, strain) = (now.baseline, now.identity, &now.strain);
    let restarting = if now.is_jvm { 10.0 * (-now.restarted_days * 1440.0 / 6.0).exp() } else { 0.0 };
    let user = base.user * own.cpu_gain * demand.powf(0.85) * (1.0 + 0.04 * now.jitter[0]);
    let sys = base.sys * own.sys_gain * (0.35 + 0.65 * demand) * (0.10 * now.noise[1]).exp();
    let iowait = base.iowait * own.iowait_gain * (0.4 + 0.6 * demand) * (0.25 * now.noise[2]).exp();
    let job = now.job * (3.0 + 0.5 * base.iowait);
    let asked = [
        user.max(0.0) + restarting + strain.user_pct + 2.0 * now.job,
        sys * (1.0 - 0.03 * now.jitter[0]) + strain.sys_pct,
        (iowait + job) * (1.0 + 0.1 * now.jitter[1]).max(0.1) + strain.iowait_pct + 0.25 * mem_pressure,
    ];
    let asked_pct: f64 = asked.iter().sum();
    let squeeze = soft_ceiling(asked_pct, 80.0, 99.0) / asked_pct.max(1e-9);
    Processors { shares_centi: asked.map(|share| (share * squeeze * 100.0).round() as i64), asked_pct }
}

/// Memory used in percent, and by how much what is wanted exceeds what is comfortable.
fn memory(now: &Circumstances<'_>, demand: f64) -> (f64, f64) {
    let own = now.identity;
    let leaked = own.mem_leak_pct_day * now.restarted_days.min(21.0);
    let refilling = -8.0 * (-now.restarted_days * 1440.0 / 40.0).exp();
    let working = 5.0 * (demand.min(2.5) - 1.0);
    let wandering = 1.3 * own.noise_gain * now.noise[4];
    let wanted = now.baseline.mem - 2.0 + own.mem_offset_pct + leaked + refilling + working + wandering;
    let wanted = (wanted + now.strain.mem_pct).clamp(2.0, 125.0);
    (soft_ceiling(wanted, 88.0, 99.0), (wanted - 84.0).max(0.0))
}

fn swap(now: &Circumstances<'_>, mem_pressure: f64) -> f64 {
    let usual = now.baseline.swap * now.identity.swap_gain * (0.12 * now.noise[5]).exp();
    round2(soft_ceiling(usual + mem_pressure, 85.0, 99.0))
}

/// Java follows the processors where the work is Java's, and collects garbage when memory is short.
fn java(now: &Circumstances<'_>, demand: f64, user: f64, mem: f64) -> f64 {
    let (base, own) = (now.baseline, now.identity);
    let wanted = if now.is_jvm {
        let collecting = (mem - 88.0).max(0.0) * 1.2;
        user * base.java / base.user * own.java_gain * (0.05 * now.noise[3]).exp() + collecting
    } else {
        base.java * own.java_gain * (0.5 + 0.5 * demand) * (0.15 * now.noise[3]).exp()
    };
    round2(soft_ceiling(wanted, 85.0, 99.5))
}

/// Megabytes a second in and out: requests and their answers share most of their noise.
fn network(now: &Circumstances<'_>, demand: f64) -> [f64; 2] {
    let (base, own) = (now.baseline, now.identity);
    let traffic = demand.powf(1.1) * now.strain.net_factor * (1.0 + 0.05 * now.jitter[2]).max(0.1);
    let (shared, split) = ((0.14 * now.noise[6]).exp(), (0.06 * now.noise[7]).exp());
    [
        round2(base.net_in * own.net_in_gain * traffic * shared * split * (1.0 + 0.3 * now.job)),
        round2(base.net_out * own.net_out_gain * traffic * shared / split * (1.0 + 0.8 * now.job)),
    ]
}

/// Sockets in CLOSE_WAIT: a count as uneven as a Poisson number, but it lasts for minutes.
fn close_wait(now: &Circumstances<'_>, demand: f64) -> [f64; 2] {
    let count = |base: f64, extra: f64, noise: f64| {
        let usual = base * now.identity.close_wait_gain * (0.4 + 0.6 * demand);
        (usual + usual.sqrt() * noise + extra * (1.0 + 0.06 * noise)).round().max(0.0)
    };
    [
        count(now.baseline.back_close_wait, now.strain.back_close_wait, now.noise[8]),
        count(now.baseline.front_close_wait, now.strain.front_close_wait, now.noise[9]),
    ]
}

/// Runnable and blocked threads: with the processors while there is room, faster once there is none.
fn load(now: &Circumstances<'_>, cpu: &Processors) -> f64 {
    let base = now.baseline;
    let busy = cpu.asked_pct.min(95.0) / (base.user + base.sys + base.iowait);
    let queued = (cpu.asked_pct - 75.0).max(0.0) / 12.0;
    let running = base.load * now.identity.load_gain * busy.powf(1.1);
    let noise = (0.09 * now.noise[10]).exp() * (1.0 + 0.03 * now.jitter[3]).max(0.1);
    round2((running * now.strain.load_factor + queued) * noise)
}

/// `value` up to `knee`; above, ever slower towards `ceiling`. Rises everywhere.
fn soft_ceiling(value: f64, knee: f64, ceiling: f64) -> f64 {
    if value <= knee {
        return value.max(0.0);
    }
    let room = ceiling - knee;
    knee + room * (1.0 - (-(value - knee) / room).exp())
}

fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::super::dice::Dice;
    use super::super::roster::{Profile, roster};
    use super::*;
    use crate::schema::Schema;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_the_schema_in_its_order() {
        let names: Vec<String> = Schema::fleet14().metrics.into_iter().map(|metric| metric.name).collect();
        assert_eq!(names, METRICS);
    }

    /// An ordinary moment of the first server of a profile.
    fn at_demand(profile: Profile, demand: f64, change: impl FnOnce(&mut Circumstances<'_>)) -> [f64; 14] {
        let servers = roster(7, Dice::new(1));
        let server = servers.iter().find(|server| server.profile == profile).unwrap();
        let mut now = Circumstances {
            baseline: &profile.baseline(),
            identity: &server.identity,
            is_jvm: profile.is_jvm(),
            demand,
            job: 0.0,
            strain: Strain::NONE,
            noise: [0.0; CHANNELS.len()],
            jitter: [0.0; 4],
            disk_pct: 50.0,
            restarted_days: 2.0,
            uptime_days: 12.9,
        };
        change(&mut now);
        metrics(&now)
    }

    #[test]
    fn work_raises_what_it_should_and_leaves_less_idle() {
        for profile in Profile::ALL {
            let (calm, busy) = (at_demand(profile, 0.6, |_| ()), at_demand(profile, 1.4, |_| ()));
            for (metric, name) in METRICS.iter().enumerate() {
                match *name {
                    "cpu_idle_pct" => assert!(busy[metric] < calm[metric] - 1.0, "{profile:?} {name}"),
                    "disk_usage_pct" | "uptime_days" => assert_eq!(busy[metric], calm[metric]),
                    _ => assert!(busy[metric] >= calm[metric], "{profile:?} {name}"),
                }
            }
            assert_eq!(calm[13], 12.0);
        }
    }

    #[test]
    fn short_memory_is_swapped_and_collected() {
        let calm = at_demand(Profile::MlCompute, 1.0, |_| ());
        let short = at_demand(Profile::MlCompute, 1.0, |now| now.strain.mem_pct = 35.0);
        assert!(short[5] > 90.0 && short[5] < 100.0);
        assert!(short[6] > calm[6] + 8.0, "swap {} then {}", calm[6], short[6]);
        assert!(short[4] > calm[4], "java {} then {}", calm[4], short[4]);
    }

    #[test]
    fn a_restart_frees_memory() {
        let old = at_demand(Profile::WebApi, 1.0, |now| now.restarted_days = 12.0);
        let new = at_demand(Profile::WebApi, 1.0, |now| now.restarted_days = 0.001);
        assert!(new[5] < old[5] - 7.0, "{} then {}", old[5], new[5]);
    }

    proptest! {
        #[test]
        fn whatever_happens_the_shares_sum_to_100_and_values_stay_in_range(
            kind in 0_usize..7,
            demand in 0.0_f64..10.0,
            strain in 0.0_f64..300.0,
            noise in prop::array::uniform11(-4.0_f64..4.0),
            jitter in prop::array::uniform4(-5.0_f64..5.0),
        ) {
            let values = at_demand(Profile::ALL[kind], demand, |now| {
                now.strain = Strain {
                    user_pct: strain, sys_pct: strain / 5.0, iowait_pct: strain / 2.0, mem_pct: strain,
                    disk_pct: strain, back_close_wait: strain, front_close_wait: strain,
                    demand_factor: 1.5, net_factor: 2.0, load_factor: 3.0,
                };
                now.noise = noise;
                now.jitter = jitter;
            });
            let schema = Schema::fleet14();
            for (metric, value) in schema.metrics.iter().zip(values) {
                prop_assert!(value.is_finite() && metric.is_in_range(value as f32), "{} {value}", metric.name);
                prop_assert!((value * 100.0 - (value * 100.0).round()).abs() < 1e-6, "{} {value}", metric.name);
            }
            let centi: i64 = values[..4].iter().map(|value| (value * 100.0).round() as i64).sum();
            prop_assert_eq!(centi, 10_000);
        }
    }
}
