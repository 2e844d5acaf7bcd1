//! The life of one server: its states, wear, incidents and noise brought together at each tick.
//!
//! A lane is asked for ascending times. It holds the present week and no history, so a fleet costs a few
//! kilobytes a server however long the simulation is.

use super::dice::{Dice, Topic};
use super::incidents::{Incident, IncidentDice, WEEK_MS};
use super::metrics::{CHANNELS, Circumstances, Strain, metrics};
use super::noise::Noise;
use super::rhythm::{LocalClock, LocalMoment, Rhythm};
use super::roster::{Baseline, Server};
use super::states::{MAX_PATCH_WEEKS, Segment, StateWeeks, Status};
use super::wear::{Disk, Releases};

const DAY_MS: f64 = 86_400_000.0;

/// Weeks to look back for the last boot: by then a server was patched.
const BOOT_WEEKS: i64 = MAX_PATCH_WEEKS + 1;

/// A change of state is felt over this time.
const EASE_MS: f64 = 120_000.0;

/// From this severity on an incident at its worst is a critical issue.
const CRITICAL_SEVERITY: f64 = 0.55;

/// What a server shares with others at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    pub time_ms: i64,
    pub moment: &'a LocalMoment,
    pub rhythm: &'a Rhythm,
    /// Demand that moves the whole fleet or profile; one on average.
    pub shock: f64,
}

/// One server on its way through time.
#[derive(Clone, Debug)]
pub(super) struct Lane<'a> {
    server: &'a Server,
    baseline: Baseline,
    dice: Dice,
    weeks: StateWeeks,
    week: i64,
    path: Vec<Segment>,
    /// Position in `path`.
    at: usize,
    before: Status,
    disk: Disk,
    releases: Releases,
    noise: Noise<{ CHANNELS.len() }>,
    /// Present and coming ones.
    incidents: Vec<Incident>,
    boot_ms: i64,
}

impl<'a> Lane<'a> {
    /// The lane of `server`, ready for times from `start_ms` on.
    pub(super) fn new(
        server: &'a Server,
        start_ms: i64,
        incidents: IncidentDice,
        clock: &mut LocalClock,
    ) -> Self {
        let dice = incidents.dice;
        let weeks = StateWeeks::new(dice, server.index, server.profile);
        let week = weeks.week_of(start_ms, clock);
        let before = weeks.path(week - 1, clock).last().map_or(Status::Healthy, |segment| segment.status);
        Self {
            server,
            baseline: server.profile.baseline(),
            dice,
            weeks,
            week,
            path: weeks.path(week, clock),
            at: 0,
            before,
            disk: Disk::new(dice, server.index, &server.identity),
            releases: Releases::new(dice, server),
            noise: Noise::new(dice, Topic::ServerNoise, u64::from(server.index), CHANNELS),
            incidents: Vec::new(),
            boot_ms: last_boot_ms(server, start_ms, &weeks, incidents, clock),
        }
    }

    /// Adds an incident of the present or future.
    pub(super) fn expect_incident(&mut self, incident: Incident) {
        self.incidents.push(incident);
    }

    /// Boots the server afresh.
    pub(super) fn boot_at(&mut self, time_ms: i64) {
        self.boot_ms = self.boot_ms.max(time_ms);
    }

    /// Status and metrics at a moment not before the last one asked for; no metrics while it is down.
    pub(super) fn observe(
        &mut self,
        shared: &Shared<'_>,
        clock: &mut LocalClock,
    ) -> (Status, Option<[f64; 14]>) {
        let time_ms = shared.time_ms;
        self.advance(time_ms, clock);
        let (status, strain) = self.suffer(time_ms);
        if status == Status::Offline {
            return (status, None);
        }
        let own = &self.server.identity;
        let rhythm = shared.rhythm.demand(shared.moment, own.phase_minutes, own.rhythm_depth);
        let restart_ms = self.boot_ms.max(self.releases.last_ms(time_ms, clock));
        let mut stream = self.dice.stream(Topic::Jitter, u64::from(self.server.index), time_ms);
        let now = Circumstances {
            baseline: &self.baseline,
            identity: own,
            is_jvm: self.server.profile.is_jvm(),
            demand: rhythm * self.state_demand(time_ms) * shared.shock,
            job: self.nightly_job(shared.moment),
            strain,
            noise: self.noise.at(time_ms),
            jitter: std::array::from_fn(|_| stream.normal()),
            disk_pct: self.disk.level_pct(time_ms, own),
            restarted_days: (time_ms - restart_ms) as f64 / DAY_MS,
            uptime_days: (time_ms - self.boot_ms) as f64 / DAY_MS,
        };
        (status, Some(metrics(&now)))
    }

    /// Moves along the path to the segment that holds `time_ms`.
    fn advance(&mut self, time_ms: i64, clock: &mut LocalClock) {
        loop {
            let next = self.path.get(self.at + 1).map(|segment| segment.start_ms);
            let end_ms = next.unwrap_or_else(|| self.weeks.start_ms(self.week + 1, clock));
            if time_ms < end_ms {
                return;
            }
            self.before = self.path[self.at].status;
            if self.before == Status::Offline {
                self.boot_at(end_ms);
            }
            if next.is_some() {
                self.at += 1;
            } else {
                self.week += 1;
                self.path = self.weeks.path(self.week, clock);
                self.at = 0;
            }
        }
    }

    /// Demand of the present state, eased in from the one before.
    fn state_demand(&self, time_ms: i64) -> f64 {
        let Segment { start_ms, status } = self.path[self.at];
        let left = (-(time_ms - start_ms) as f64 / EASE_MS).exp();
        status.demand() + (self.before.demand() - status.demand()) * left
    }

    /// The status with incidents over it, and what they do; those that are over are forgotten.
    fn suffer(&mut self, time_ms: i64) -> (Status, Strain) {
        let (mut status, mut strain) = (self.path[self.at].status, Strain::NONE);
        let mut boot_ms = self.boot_ms;
        for incident in &self.incidents {
            if incident.boot_ms > incident.relief_ms && incident.boot_ms <= time_ms {
                boot_ms = boot_ms.max(incident.boot_ms);
            }
            incident.strain(time_ms, &mut strain);
            status = overlaid(status, incident, time_ms);
        }
        self.boot_ms = boot_ms;
        self.incidents.retain(|incident| time_ms < incident.end_ms);
        (status, strain)
    }

    /// How much of the server's nightly job runs: it takes three minutes to begin and to end, and does more
    /// on Sundays.
    fn nightly_job(&self, moment: &LocalMoment) -> f64 {
        let own = &self.server.identity;
        let since = (moment.hour() * 60.0 - own.job_minute).rem_euclid(1440.0);
        let left = own.job_minutes - since;
        let running = (since.min(left) / 3.0).clamp(0.0, 1.0);
        let is_sunday = moment.minute_of_week >= 6.0 * 1440.0;
        running * own.job_strength * if is_sunday { 1.4 } else { 1.0 }
    }
}

/// What an incident makes of a status: down is down, maintenance is told before trouble.
fn overlaid(status: Status, incident: &Incident, time_ms: i64) -> Status {
    let is_present = (incident.start_ms..incident.end_ms).contains(&time_ms);
    if !is_present || status == Status::Offline {
        status
    } else if incident.is_down(time_ms) {
        Status::Offline
    } else if status == Status::Maintenance
        || incident.severity < CRITICAL_SEVERITY
        || time_ms < incident.peak_ms
    {
        status
    } else if time_ms < incident.relief_ms {
        Status::CriticalIssue
    } else if status == Status::CriticalIssue {
        status
    } else {
        Status::Recovery
    }
}

/// The last time `server` booted before `time_ms`, for patches, maintenance or a crash.
fn last_boot_ms(
    server: &Server,
    time_ms: i64,
    weeks: &StateWeeks,
    incidents: IncidentDice,
    clock: &mut LocalClock,
) -> i64 {
    let week = weeks.week_of(time_ms, clock);
    let planned = (0..BOOT_WEEKS).find_map(|ago| boot_in_week(weeks, week - ago, time_ms, clock));
    let week = time_ms.div_euclid(WEEK_MS);
    let own = (0..BOOT_WEEKS).flat_map(|ago| incidents.own(server, week - ago, clock));
    let crashed =
        own.filter(|one| one.boot_ms > one.relief_ms && one.boot_ms <= time_ms).map(|one| one.boot_ms);
    crashed.max().max(planned).expect("patching alone boots every server within nine weeks")
}

/// The last time within a week, and before `time_ms`, that a planned stay offline ended.
fn boot_in_week(weeks: &StateWeeks, week: i64, time_ms: i64, clock: &mut LocalClock) -> Option<i64> {
    let path = weeks.path(week, clock);
    let next_week_ms = weeks.start_ms(week + 1, clock);
    let ends = path.iter().skip(1).map(|segment| segment.start_ms).chain([next_week_ms]);
    path.iter()
        .zip(ends)
        .filter(|(segment, end_ms)| segment.status == Status::Offline && *end_ms <= time_ms)
        .map(|(_, end_ms)| end_ms)
        .last()
}
