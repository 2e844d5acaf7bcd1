//! What goes wrong: incidents that build up, stay and go, and cascades to the servers that lean on others.
//!
//! A server's own incidents are drawn a week (of UTC, from a Thursday) at a time from dice keyed by (server,
//! week); what they do to dependants follows from the incident alone. Each incident is labelled with its
//! true times, so that early warning can be judged: how many were seen coming, and how long before.

use chrono::SecondsFormat;
use rand::RngExt;
use serde::Serialize;

use crate::calendar;

use super::dice::{Dice, Stream, Topic};
use super::metrics::Strain;
use super::rhythm::LocalClock;
use super::roster::{Profile, Server};

/// Milliseconds of the weeks in which incidents are drawn.
pub(super) const WEEK_MS: i64 = 7 * 86_400_000;

/// The longest an incident can last, with everything that cascades from it.
pub(super) const LONGEST_MS: i64 = 2 * 86_400_000;

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// A runaway job takes the processors.
    CpuSaturation,
    /// A process grows over hours until it is restarted.
    MemoryLeak,
    /// Storage answers slowly.
    DiskStall,
    /// Something writes until it is stopped and cleaned up.
    DiskFill,
    /// More requests than foreseen.
    TrafficSurge,
    /// Connections are not closed.
    ConnectionLeak,
    /// The server struggles, falls over and boots.
    Crash,
    /// What it leans on refuses connections.
    UpstreamConnections,
    /// What it leans on gives it nothing to do.
    UpstreamStarvation,
}

impl IncidentKind {
    /// The kinds that begin on a server of this profile, with their weights.
    fn own(profile: Profile) -> [(IncidentKind, f64); 7] {
        use IncidentKind::*;
        let weights = match profile {
            Profile::Database => [1.0, 0.7, 3.0, 1.2, 0.5, 2.0, 0.7],
            Profile::WebApi => [1.5, 1.5, 0.4, 0.6, 2.5, 2.5, 0.6],
            Profile::MlCompute => [2.0, 3.0, 0.8, 1.0, 0.2, 0.3, 1.0],
            Profile::DataIngest => [1.0, 1.0, 2.0, 2.5, 1.5, 0.7, 0.6],
            Profile::RiskAnalytics => [3.0, 2.0, 0.6, 0.6, 0.4, 0.8, 0.7],
            Profile::ConductorMgmt => [1.5, 1.5, 0.8, 0.8, 0.6, 2.0, 1.0],
            Profile::Generic => [1.0; 7],
        };
        let kinds = [CpuSaturation, MemoryLeak, DiskStall, DiskFill, TrafficSurge, ConnectionLeak, Crash];
        std::array::from_fn(|k| (kinds[k], weights[k]))
    }

    /// Median minutes of build-up, plateau and recovery.
    fn minutes(self) -> [f64; 3] {
        match self {
            IncidentKind::CpuSaturation => [25.0, 30.0, 12.0],
            IncidentKind::MemoryLeak => [150.0, 30.0, 4.0],
            IncidentKind::DiskStall => [12.0, 25.0, 10.0],
            IncidentKind::DiskFill => [240.0, 40.0, 3.0],
            IncidentKind::TrafficSurge => [10.0, 35.0, 20.0],
            IncidentKind::ConnectionLeak => [90.0, 30.0, 4.0],
            IncidentKind::Crash => [20.0, 6.0, 25.0],
            IncidentKind::UpstreamConnections | IncidentKind::UpstreamStarvation => [5.0, 30.0, 10.0],
        }
    }

    /// The metrics it moves, the clearest first; in an upward direction unless it starves.
    pub fn metrics(self) -> &'static [&'static str] {
        match self {
            IncidentKind::CpuSaturation => &["cpu_user_pct", "cpu_sys_pct", "cpu_idle_pct", "load_average"],
            IncidentKind::MemoryLeak => &["mem_used_pct", "swap_used_pct"],
            IncidentKind::DiskStall => &["cpu_iowait_pct", "load_average", "cpu_user_pct"],
            IncidentKind::DiskFill => &["disk_usage_pct", "cpu_iowait_pct"],
            IncidentKind::TrafficSurge => {
                &["net_in_mb_s", "net_out_mb_s", "cpu_user_pct", "front_close_wait", "load_average"]
            }
            IncidentKind::ConnectionLeak => &["back_close_wait", "front_close_wait", "cpu_sys_pct"],
            IncidentKind::Crash => &["load_average", "cpu_user_pct", "mem_used_pct", "uptime_days"],
            IncidentKind::UpstreamConnections => {
                &["back_close_wait", "front_close_wait", "load_average", "cpu_sys_pct"]
            }
            IncidentKind::UpstreamStarvation => {
                &["cpu_user_pct", "java_cpu_pct", "net_in_mb_s", "net_out_mb_s"]
            }
        }
    }

    /// Whether dependants feel it.
    fn can_cascade(self) -> bool {
        use IncidentKind::*;
        matches!(self, CpuSaturation | DiskStall | ConnectionLeak | Crash)
    }

    /// Whether it builds up evenly, like a leak, rather than slowly and then fast.
    fn is_even(self) -> bool {
        matches!(self, IncidentKind::MemoryLeak | IncidentKind::DiskFill | IncidentKind::ConnectionLeak)
    }
}

/// One incident on one server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Incident {
    pub server: u32,
    pub kind: IncidentKind,
    /// How bad at its worst, 0..1.
    pub severity: f64,
    pub start_ms: i64,
    /// At its worst from here ..
    pub peak_ms: i64,
    /// .. to here.
    pub relief_ms: i64,
    /// Of a crash: the server is down between relief and this.
    pub boot_ms: i64,
    pub end_ms: i64,
    /// The server at whose failure it began, if another.
    pub upstream: Option<u32>,
    /// Key of the cascade it belongs to: server and start of the first failure.
    pub cascade: Option<(u32, i64)>,
}

impl Incident {
    /// How much of the incident is felt, 0..1.
    pub(super) fn envelope(&self, time_ms: i64) -> f64 {
        let part = |from: i64, to: i64| (time_ms - from) as f64 / (to - from).max(1) as f64;
        if time_ms < self.start_ms || time_ms >= self.end_ms {
            0.0
        } else if time_ms < self.peak_ms {
            let built = part(self.start_ms, self.peak_ms);
            if self.kind.is_even() { built } else { built.powf(1.6) }
        } else if time_ms < self.relief_ms {
            1.0
        } else {
            let left = 1.0 - part(self.boot_ms.max(self.relief_ms), self.end_ms).clamp(0.0, 1.0);
            // Whoever has booted starts afresh; only the backlog is left.
            if self.kind == IncidentKind::Crash { 0.3 * left * left } else { left * left }
        }
    }

    /// Whether the server is down at this moment.
    pub(super) fn is_down(&self, time_ms: i64) -> bool {
        (self.relief_ms..self.boot_ms).contains(&time_ms)
    }

    /// Adds what the incident does to the server at this moment.
    pub(super) fn strain(&self, time_ms: i64, strain: &mut Strain) {
        let felt = self.envelope(time_ms) * self.severity;
        if felt <= 0.0 {
            return;
        }
        match self.kind {
            IncidentKind::CpuSaturation => {
                strain.user_pct += 55.0 * felt;
                strain.sys_pct += 6.0 * felt;
                strain.load_factor *= 1.0 + 1.5 * felt;
            }
            IncidentKind::MemoryLeak => strain.mem_pct += 38.0 * felt,
            IncidentKind::DiskStall => {
                strain.iowait_pct += 42.0 * felt;
                strain.demand_factor *= 1.0 - 0.35 * felt;
                strain.load_factor *= 1.0 + 2.0 * felt;
            }
            IncidentKind::DiskFill => {
                strain.disk_pct += 32.0 * felt;
                strain.iowait_pct += 5.0 * felt;
            }
            IncidentKind::TrafficSurge => {
                strain.demand_factor *= 1.0 + 0.8 * felt;
                strain.net_factor *= 1.0 + 0.8 * felt;
                strain.front_close_wait += 30.0 * felt;
            }
            IncidentKind::ConnectionLeak => {
                strain.back_close_wait += 260.0 * felt;
                strain.front_close_wait += 80.0 * felt;
                strain.sys_pct += 4.0 * felt;
                strain.mem_pct += 4.0 * felt;
            }
            IncidentKind::Crash => {
                strain.user_pct += 30.0 * felt;
                strain.sys_pct += 10.0 * felt;
                strain.mem_pct += 18.0 * felt;
                strain.load_factor *= 1.0 + 2.5 * felt;
            }
            IncidentKind::UpstreamConnections => {
                strain.back_close_wait += 70.0 * felt;
                strain.front_close_wait += 35.0 * felt;
                strain.sys_pct += 4.0 * felt;
                strain.load_factor *= 1.0 + 0.8 * felt;
                strain.demand_factor *= 1.0 - 0.2 * felt;
            }
            IncidentKind::UpstreamStarvation => strain.demand_factor *= 1.0 - 0.8 * felt,
        }
    }

    /// The label written beside the data.
    pub(super) fn label(&self, servers: &[Server]) -> IncidentLabel {
        let time = |ms| calendar::to_utc(ms).to_rfc3339_opts(SecondsFormat::Secs, true);
        let name = |server: u32| servers[server as usize].name.clone();
        IncidentLabel {
            server_name: name(self.server),
            kind: self.kind,
            source: name(self.upstream.unwrap_or(self.server)),
            start: time(self.start_ms),
            peak_start: time(self.peak_ms),
            peak_end: time(self.relief_ms),
            end: time(self.end_ms),
            metrics: self.kind.metrics(),
            severity: (self.severity * 100.0).round() / 100.0,
            cascade_id: self.cascade.map(|(server, start_ms)| format!("{}@{}", name(server), time(start_ms))),
        }
    }
}

/// The truth about one incident, as written to the labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IncidentLabel {
    pub server_name: String,
    pub kind: IncidentKind,
    /// The server whose failure this follows from; the server itself if it began here.
    pub source: String,
    /// It begins to build up.
    pub start: String,
    /// It is at its worst from here ..
    pub peak_start: String,
    /// .. to here; a crashed server is down from here.
    pub peak_end: String,
    /// All is as before.
    pub end: String,
    /// Metrics it moves, the clearest first.
    pub metrics: &'static [&'static str],
    /// 0..1.
    pub severity: f64,
    /// Shared by a failure and everything that follows from it; absent if nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade_id: Option<String>,
}

/// Draws incidents.
#[derive(Clone, Copy, Debug)]
pub(super) struct IncidentDice {
    pub dice: Dice,
    pub per_server_week: f64,
}

/// Share of incidents that begin in business hours, on top of those that would by chance.
const BUSINESS_SHARE: f64 = 0.45;
/// Weaker than this, a failure further up is not felt.
const LEAST_FELT: f64 = 0.25;
/// A failure reaches dependants, and dependants of those.
const CASCADE_DEPTH: u32 = 2;

impl IncidentDice {
    /// The incidents that begin on `server` in `week`, in order.
    pub(super) fn own(&self, server: &Server, week: i64, clock: &mut LocalClock) -> Vec<Incident> {
        let mut stream = self.dice.stream(Topic::IncidentWeek, u64::from(server.index), week);
        let n_incidents = stream.poisson(self.per_server_week * server.identity.incident_gain);
        let mut incidents = Vec::with_capacity(n_incidents as usize);
        for _ in 0..n_incidents {
            let start_ms = draw_start(week, &mut stream, clock);
            let kind = stream.pick(&IncidentKind::own(server.profile));
            let [build_up, plateau, recovery] =
                kind.minutes().map(|median| minutes_ms(stream.lognormal(median, 0.45).min(3.0 * median)));
            let down_ms = minutes_ms(stream.lognormal(12.0, 0.6).clamp(3.0, 60.0));
            let (peak_ms, relief_ms) = (start_ms + build_up, start_ms + build_up + plateau);
            let boot_ms = if kind == IncidentKind::Crash { relief_ms + down_ms } else { relief_ms };
            incidents.push(Incident {
                server: server.index,
                kind,
                severity: stream.between(0.45, 1.0),
                start_ms,
                peak_ms,
                relief_ms,
                boot_ms,
                end_ms: boot_ms + recovery,
                upstream: None,
                cascade: None,
            });
        }
        incidents.sort_by_key(|incident| incident.start_ms);
        incidents
    }

    /// An own incident and whatever follows from it on servers that lean on that one.
    pub(super) fn cascade(&self, mut first: Incident, servers: &[Server]) -> Vec<Incident> {
        let key = (first.server, first.start_ms);
        let mut chain: Vec<Incident> = Vec::new();
        if first.kind.can_cascade() {
            self.spread(&first, key, servers, CASCADE_DEPTH, &mut chain);
        }
        first.cascade = (!chain.is_empty()).then_some(key);
        chain.insert(0, first);
        chain
    }

    fn spread(
        &self,
        from: &Incident,
        key: (u32, i64),
        servers: &[Server],
        depth: u32,
        chain: &mut Vec<Incident>,
    ) {
        let source = &servers[from.server as usize];
        for (dependant, strength) in &source.dependants {
            // Keyed by the pair, so that a further dependant changes nothing for this one.
            let pair = u64::from(from.server) << 32 | u64::from(*dependant);
            let mut stream = self.dice.stream(Topic::Cascade, pair, key.1);
            let severity = (from.severity * strength * stream.between(0.6, 1.15)).min(1.0);
            let is_shielded = stream.chance(0.25);
            if is_shielded || severity < LEAST_FELT || chain.iter().any(|known| known.server == *dependant) {
                continue;
            }
            let lag_ms = minutes_ms(stream.lognormal(2.5, 0.6).min(15.0));
            let is_starved = servers[*dependant as usize].profile == Profile::MlCompute;
            let kind =
                if is_starved { IncidentKind::UpstreamStarvation } else { IncidentKind::UpstreamConnections };
            let start_ms = (from.start_ms + from.peak_ms) / 2 + lag_ms;
            let peak_ms = from.peak_ms.max(start_ms) + minutes_ms(stream.between(1.0, 6.0));
            let relief_ms = from.boot_ms.max(peak_ms) + lag_ms;
            let end_ms = relief_ms + minutes_ms(stream.lognormal(kind.minutes()[2], 0.4));
            chain.push(Incident {
                server: *dependant,
                kind,
                severity,
                start_ms,
                peak_ms,
                relief_ms,
                boot_ms: relief_ms,
                end_ms,
                upstream: Some(from.server),
                cascade: Some(key),
            });
            if depth > 1 {
                let felt = chain[chain.len() - 1].clone();
                self.spread(&felt, key, servers, depth - 1, chain);
            }
        }
    }
}

/// A moment of the week: often one in business hours, if the week has any.
fn draw_start(week: i64, stream: &mut Stream, clock: &mut LocalClock) -> i64 {
    let n_tries = if stream.chance(BUSINESS_SHARE) { 40 } else { 1 };
    let mut start_ms = week * WEEK_MS;
    for _ in 0..n_tries {
        start_ms = week * WEEK_MS + stream.random_range(0..WEEK_MS);
        if is_business_hour(start_ms, clock) {
            break;
        }
    }
    start_ms
}

fn minutes_ms(minutes: f64) -> i64 {
    (minutes * 60_000.0) as i64
}

fn is_business_hour(time_ms: i64, clock: &mut LocalClock) -> bool {
    let moment = clock.at(time_ms);
    moment.is_workday() && (8.0..18.0).contains(&moment.hour())
}

#[cfg(test)]
mod tests {
    use super::super::roster::roster;
    use super::*;

    fn fleet(n: u32, per_server_week: f64) -> (Vec<Server>, IncidentDice, LocalClock) {
        let dice = Dice::new(8);
        let clock = LocalClock::new(chrono_tz::America::New_York, &[]);
        (roster(n, dice), IncidentDice { dice, per_server_week }, clock)
    }

    #[test]
    fn as_many_begin_as_asked_and_more_in_business_hours() {
        let (servers, dice, mut clock) = fleet(400, 2.0);
        let incidents: Vec<Incident> =
            servers.iter().flat_map(|server| dice.own(server, 2830, &mut clock)).collect();
        let rate = incidents.len() as f64 / 400.0;
        assert!((rate - 2.0).abs() < 0.25, "{rate} a server-week");
        let n_business = incidents.iter().filter(|one| is_business_hour(one.start_ms, &mut clock)).count();
        let share = n_business as f64 / incidents.len() as f64;
        assert!((0.5..0.75).contains(&share), "{share} in business hours");
    }

    #[test]
    fn incidents_build_up_stay_and_go_within_bounds() {
        let (servers, dice, mut clock) = fleet(200, 3.0);
        for incident in servers.iter().flat_map(|server| dice.own(server, 2830, &mut clock)) {
            for one in dice.cascade(incident, &servers) {
                assert!(one.start_ms < one.peak_ms && one.peak_ms <= one.relief_ms, "{one:?}");
                assert!(one.relief_ms <= one.boot_ms && one.boot_ms < one.end_ms, "{one:?}");
                assert!(one.end_ms - one.start_ms < LONGEST_MS, "{one:?}");
                assert_eq!((one.envelope(one.start_ms), one.envelope(one.end_ms)), (0.0, 0.0));
                assert!((0.0..=1.0).contains(&one.severity));
                for tenth in 0..10 {
                    let time_ms = one.start_ms + (one.end_ms - one.start_ms) * tenth / 10;
                    assert!((0.0..=1.0).contains(&one.envelope(time_ms)));
                }
            }
        }
    }

    #[test]
    fn cascades_follow_their_source_and_name_it() {
        let (servers, dice, mut clock) = fleet(100, 5.0);
        let (mut n_cascades, mut n_second) = (0, 0);
        for server in &servers {
            for incident in dice.own(server, 2831, &mut clock) {
                let chain = dice.cascade(incident, &servers);
                let first = &chain[0];
                n_cascades += usize::from(chain.len() > 1);
                for felt in &chain[1..] {
                    assert!(felt.start_ms > first.start_ms && felt.severity <= 1.0);
                    assert_eq!(felt.cascade, first.cascade);
                    let upstream = felt.upstream.unwrap();
                    assert!(upstream < felt.server, "a server leans on those before it");
                    n_second += usize::from(upstream != first.server);
                }
                let mut hit: Vec<u32> = chain.iter().map(|one| one.server).collect();
                hit.sort_unstable();
                hit.dedup();
                assert_eq!(hit.len(), chain.len(), "each server is hit once");
            }
        }
        assert!(n_cascades > 5 && n_second > 0, "{n_cascades} cascades, {n_second} second-hand");
    }
}
