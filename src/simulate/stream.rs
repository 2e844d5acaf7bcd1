//! The fleet's reports in the order in which a collector receives them.
//!
//! Tick by tick every server is observed; faults drop rows, hold them back or repeat them. In memory are one
//! lane a server, the rows of one tick, and the rows under way: with a late rate of 1 % some six hours times
//! 1 % of the fleet's rows at most, whatever the length of the simulation.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use chrono::Datelike;
use rand::RngExt;
use serde::Serialize;

use super::Fleet;
use super::dice::Topic;
use super::faults::Faults;
use super::incidents::{IncidentDice, IncidentLabel, LONGEST_MS, WEEK_MS};
use super::lane::{Lane, Shared};
use super::metrics::NET;
use super::noise::{Noise, SHARED};
use super::rhythm::{LocalClock, LocalMoment, Rhythm};
use super::roster::{Profile, Server};
use super::spec::OfflineRows;
use super::states::Status;

/// One report of one server.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedRow<'a> {
    /// Event time by the server's clock, epoch milliseconds.
    pub time_ms: i64,
    pub server: &'a Server,
    pub status: Status,
    /// In the order of [`METRICS`](super::METRICS), rounded as written.
    pub metrics: [f64; 14],
}

/// What a simulation did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SimulationReport {
    pub n_servers: u64,
    /// Rows handed out, repeats included.
    pub n_rows: u64,
    /// Moments at which a server was down; a row each if offline rows are dense, else none.
    pub n_offline: u64,
    /// Rows that never arrived.
    pub n_missing: u64,
    pub n_late: u64,
    pub n_duplicate: u64,
    /// Incidents that began on a server by themselves and touch the simulated time.
    pub n_incidents: u64,
    /// Incidents that followed from another server's.
    pub n_cascaded: u64,
    /// The most rows that were under way at once.
    pub n_held_most: u64,
}

/// Rows as they arrive; made by [`Fleet::rows`].
///
/// Labels of incidents become available before the first row that shows them: [`Rows::take_labels`].
pub struct Rows<'a> {
    fleet: &'a Fleet,
    clock: LocalClock,
    rhythms: [Rhythm; Profile::ALL.len()],
    /// Channel 0 moves the whole fleet, the others a profile each.
    shared_noise: Noise<{ 1 + Profile::ALL.len() }>,
    incident_dice: IncidentDice,
    faults: Faults,
    lanes: Vec<Lane<'a>>,
    /// The next tick and the next week whose incidents are unknown.
    next_ms: i64,
    next_week: i64,
    ready: VecDeque<SimulatedRow<'a>>,
    held: BinaryHeap<Reverse<Held<'a>>>,
    n_held: u64,
    labels: Vec<IncidentLabel>,
    report: SimulationReport,
}

/// A row under way, ordered by arrival and then by when it was sent.
struct Held<'a> {
    arrival_ms: i64,
    nth: u64,
    row: SimulatedRow<'a>,
}

impl Held<'_> {
    fn key(&self) -> (i64, u64) {
        (self.arrival_ms, self.nth)
    }
}

impl PartialEq for Held<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Held<'_> {}
impl PartialOrd for Held<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Spread of the logarithm of demand that all servers share, and that a profile's share.
const FLEET_SPREAD: f64 = 0.05;
const PROFILE_SPREAD: f64 = 0.08;
/// From this many standard deviations on a shared rise becomes a rush.
const RUSH_FROM: f64 = 1.7;

/// A replaced server is gone for this long.
const REPLACEMENT_MS: i64 = 30 * 60_000;

impl<'a> Rows<'a> {
    pub(super) fn new(fleet: &'a Fleet) -> Self {
        let (spec, dice) = (&fleet.spec, fleet.dice);
        let incident_dice = IncidentDice { dice, per_server_week: spec.incidents_per_server_week };
        let mut clock = LocalClock::new(spec.zone, &spec.holidays);
        let start_ms = spec.start.timestamp_millis();
        let lane = |server| Lane::new(server, start_ms, incident_dice, &mut clock);
        let lanes = fleet.servers.iter().map(lane).collect();
        Self {
            fleet,
            clock,
            rhythms: Profile::ALL.map(Rhythm::of),
            shared_noise: Noise::new(dice, Topic::SharedNoise, 0, [SHARED; 1 + Profile::ALL.len()]),
            incident_dice,
            faults: Faults::of(spec, dice),
            lanes,
            next_ms: start_ms,
            next_week: (start_ms - LONGEST_MS).div_euclid(WEEK_MS),
            ready: VecDeque::new(),
            held: BinaryHeap::new(),
            n_held: 0,
            labels: Vec::new(),
            report: SimulationReport { n_servers: fleet.servers.len() as u64, ..Default::default() },
        }
    }

    /// Labels of incidents that became known since the last call; all of a week come at its beginning.
    pub fn take_labels(&mut self) -> Vec<IncidentLabel> {
        std::mem::take(&mut self.labels)
    }

    /// What was done so far.
    pub fn report(&self) -> &SimulationReport {
        &self.report
    }

    /// Observes every server once; rows that have arrived by then become ready. False after the last row.
    fn tick(&mut self) -> bool {
        let time_ms = self.next_ms;
        if time_ms >= self.fleet.spec.end.timestamp_millis() {
            self.deliver(i64::MAX);
            return !self.ready.is_empty();
        }
        self.next_ms += i64::from(self.fleet.spec.tick_secs) * 1000;
        while self.next_week <= time_ms.div_euclid(WEEK_MS) {
            self.learn_incidents(self.next_week);
            self.next_week += 1;
        }
        self.deliver(time_ms);
        let moment = self.clock.at(time_ms);
        let shocks = shocks(self.shared_noise.at(time_ms));
        for index in 0..self.lanes.len() {
            self.observe(index, time_ms, &moment, &shocks);
        }
        true
    }

    /// Hands the incidents of a week to the lanes, and their labels to whoever asks.
    fn learn_incidents(&mut self, week: i64) {
        let (servers, spec) = (&self.fleet.servers, &self.fleet.spec);
        let (start_ms, end_ms) = (spec.start.timestamp_millis(), spec.end.timestamp_millis());
        let mut known = Vec::new();
        for server in servers {
            for own in self.incident_dice.own(server, week, &mut self.clock) {
                known.extend(self.incident_dice.cascade(own, servers));
            }
        }
        known.retain(|incident| incident.end_ms > start_ms && incident.start_ms < end_ms);
        known.sort_by_key(|incident| (incident.start_ms, incident.server));
        for incident in known {
            self.labels.push(incident.label(servers));
            match incident.upstream {
                None => self.report.n_incidents += 1,
                Some(_) => self.report.n_cascaded += 1,
            }
            self.lanes[incident.server as usize].expect_incident(incident);
        }
    }

    /// Observes one server and sends its row, unless there is none.
    fn observe(
        &mut self,
        index: usize,
        time_ms: i64,
        moment: &LocalMoment,
        shocks: &[f64; Profile::ALL.len()],
    ) {
        let fleet = self.fleet;
        let server = &fleet.servers[index];
        let tenure = &fleet.tenures[index];
        if let Some((replaced_ms, _)) = tenure.replaced
            && time_ms >= replaced_ms
        {
            self.lanes[index].boot_at(replaced_ms + REPLACEMENT_MS);
        }
        let kind = fleet.kinds[index];
        let shared = Shared { time_ms, moment, rhythm: &self.rhythms[kind], shock: shocks[kind] };
        let (status, metrics) = self.lanes[index].observe(&shared, &mut self.clock);
        let Some(named) = tenure.server_at(server, time_ms) else {
            return;
        };
        self.report.n_offline += u64::from(metrics.is_none());
        let metrics = match (metrics, fleet.spec.offline_rows) {
            (Some(metrics), _) => metrics,
            (None, OfflineRows::Dense) => [0.0; 14],
            (None, OfflineRows::Missing) => return,
        };
        self.send(SimulatedRow { time_ms, server: named, status, metrics }, moment);
    }

    /// Lets faults befall a row on its way.
    fn send(&mut self, mut row: SimulatedRow<'a>, moment: &LocalMoment) {
        let (server, time_ms) = (row.server.index, row.time_ms);
        if self.faults.is_missing(server, time_ms) {
            self.report.n_missing += 1;
            return;
        }
        row.time_ms += self.fleet.clock_errors_ms[server as usize];
        let unit = self.faults.unit_factor(server, i64::from(moment.date.num_days_from_ce()));
        NET.iter().for_each(|metric| row.metrics[*metric] *= unit);
        let arrival_ms = self.faults.arrival_ms(server, time_ms);
        if arrival_ms > time_ms {
            self.report.n_late += 1;
            self.hold(arrival_ms, row);
        } else {
            self.ready.push_back(row);
        }
        if let Some(after_ms) = self.faults.repeat_after_ms(server, time_ms) {
            self.report.n_duplicate += 1;
            self.hold(arrival_ms + after_ms, row);
        }
    }

    fn hold(&mut self, arrival_ms: i64, row: SimulatedRow<'a>) {
        self.held.push(Reverse(Held { arrival_ms, nth: self.n_held, row }));
        self.n_held += 1;
        self.report.n_held_most = self.report.n_held_most.max(self.held.len() as u64);
    }

    /// Makes the held rows that arrive by `time_ms` ready.
    fn deliver(&mut self, time_ms: i64) {
        while self.held.peek().is_some_and(|held| held.0.arrival_ms <= time_ms) {
            let Reverse(held) = self.held.pop().expect("it was just seen");
            self.ready.push_back(held.row);
        }
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = SimulatedRow<'a>;

    fn next(&mut self) -> Option<SimulatedRow<'a>> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                self.report.n_rows += 1;
                return Some(row);
            }
            if !self.tick() {
                return None;
            }
        }
    }
}

/// Demand that each profile's servers share: days and hours on which everybody is busier, now and then a rush.
fn shocks(noise: [f64; 1 + Profile::ALL.len()]) -> [f64; Profile::ALL.len()] {
    std::array::from_fn(|kind| {
        let rush = |deviations: f64| (deviations - RUSH_FROM).max(0.0) * 0.25;
        let (fleet, profile) = (noise[0], noise[1 + kind]);
        (FLEET_SPREAD * fleet + PROFILE_SPREAD * profile + rush(fleet) + rush(profile)).exp()
    })
}

/// From when to when a server is there, and under which name.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    first_ms: i64,
    /// When it was replaced, and by whom.
    replaced: Option<(i64, Server)>,
}

impl Tenure {
    /// Draws newcomers and replacements between the start and the end of the simulation.
    pub(super) fn draw(fleet_spec: &super::FleetSpec, dice: super::dice::Dice, server: &Server) -> Self {
        let (start_ms, end_ms) = (fleet_spec.start.timestamp_millis(), fleet_spec.end.timestamp_millis());
        let mut stream = dice.stream(Topic::Tenure, u64::from(server.index), 0);
        let is_newcomer = stream.chance(fleet_spec.newcomer_share);
        let first_ms = if is_newcomer { stream.random_range(start_ms..end_ms) } else { i64::MIN };
        let is_replaced = stream.chance(fleet_spec.replaced_share);
        let replaced = is_replaced.then(|| {
            let replaced_ms = stream.random_range(first_ms.max(start_ms)..end_ms);
            (replaced_ms, Server { name: format!("{}b", server.name), ..server.clone() })
        });
        Self { first_ms, replaced }
    }

    /// Who reports at a moment, if anybody.
    fn server_at<'a>(&'a self, server: &'a Server, time_ms: i64) -> Option<&'a Server> {
        match &self.replaced {
            _ if time_ms < self.first_ms => None,
            Some((replaced_ms, successor)) if time_ms >= *replaced_ms => {
                (time_ms >= replaced_ms + REPLACEMENT_MS).then_some(successor)
            }
            _ => Some(server),
        }
    }
}
