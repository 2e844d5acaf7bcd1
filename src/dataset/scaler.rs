//! Centre and scale per server and metric, so that the network sees numbers of the size of one.
//!
//! Fitted once per lineage and frozen: tonight's network must mean by `1.3` what last night's meant. Only what
//! was never observed before (a new server, a metric that had no values) is fitted later, against the same
//! fleet-wide floor; [`super::drift`] notices when a frozen scale no longer fits. Servers without statistics of their own borrow their profile's, profiles the fleet's.
//!
//! Mean and standard deviation are taken over the observed steps of the train part, with the most extreme
//! thousandth moved inwards (one absurd reading must not flatten everything else). The scale is held above a
//! tenth of the fleet's typical standard deviation of that metric, so that a constant or all-zero series does
//! not turn its first twitch into a scream.

use serde::{Deserialize, Serialize};

use crate::stats::{self, Moments};

/// Largest magnitude of a scaled value that reaches the network.
pub const SCALED_LIMIT: f32 = 50.0;

/// Share of the fleet's typical spread below which no scale goes.
pub(super) const FLOOR_SHARE: f64 = 0.1;

/// Share of the centre's magnitude below which no scale goes: float32 noise is not a signal.
const RELATIVE_FLOOR: f64 = 1e-6;

/// Centre and scale of every metric, for one server, one profile or the fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    pub centre: Vec<f32>,
    /// Positive and finite.
    pub scale: Vec<f32>,
    /// Values behind each pair; 0 where both are borrowed.
    pub n_observed: Vec<u32>,
}

impl Stats {
    /// A value in scaled units, within [`SCALED_LIMIT`].
    pub fn scale(&self, metric: usize, value: f32) -> f32 {
        ((value - self.centre[metric]) / self.scale[metric]).clamp(-SCALED_LIMIT, SCALED_LIMIT)
    }

    /// A scaled value in the metric's own unit.
    pub fn unscale(&self, metric: usize, scaled: f32) -> f32 {
        scaled * self.scale[metric] + self.centre[metric]
    }

    fn unseen(n_metrics: usize) -> Self {
        Self { centre: vec![0.0; n_metrics], scale: vec![1.0; n_metrics], n_observed: vec![0; n_metrics] }
    }

    fn set(&mut self, metric: usize, centre: f64, scale: f64, n_observed: usize) {
        let limit = f64::from(f32::MAX) / 1e3;
        self.centre[metric] = centre.clamp(-limit, limit) as f32;
        self.scale[metric] = scale.clamp(1e-30, limit) as f32;
        self.n_observed[metric] = u32::try_from(n_observed).unwrap_or(u32::MAX);
    }

    fn borrow(&mut self, metric: usize, from: &Stats) {
        self.centre[metric] = from.centre[metric];
        self.scale[metric] = from.scale[metric];
    }
}

/// The statistics of a lineage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaler {
    /// By position in the vocabulary's servers.
    pub servers: Vec<Stats>,
    /// By position in the vocabulary's profiles.
    pub profiles: Vec<Stats>,
    pub fleet: Stats,
    /// Smallest scale of each metric.
    pub floor: Vec<f32>,
}

/// What was observed of one server in the train part.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Position in the vocabulary's servers.
    pub server: usize,
    /// Position in the vocabulary's profiles.
    pub profile: usize,
    /// Per metric.
    pub moments: Vec<Moments>,
}

impl Scaler {
    /// Extends `prior` (or an empty scaler) by `observed`, keeping every statistic that has values behind it.
    ///
    /// The result has `n_servers` and `n_profiles` entries of `n_metrics` each.
    pub fn fit(
        prior: Option<&Scaler>,
        observed: &[Observed],
        n_servers: usize,
        n_profiles: usize,
        n_metrics: usize,
    ) -> Self {
        let mut scaler = prior.cloned().unwrap_or_else(|| Scaler {
            fleet: Stats::unseen(n_metrics),
            floor: vec![1.0; n_metrics],
            ..Scaler::default()
        });
        scaler.servers.resize_with(n_servers, || Stats::unseen(n_metrics));
        scaler.profiles.resize_with(n_profiles, || Stats::unseen(n_metrics));
        for metric in 0..n_metrics {
            scaler.fit_metric(metric, observed);
        }
        scaler
    }

    fn fit_metric(&mut self, metric: usize, observed: &[Observed]) {
        let all = |_: &&Observed| true;
        if self.fleet.n_observed[metric] == 0 {
            self.floor[metric] = floor_of(metric, observed);
            let floor = f64::from(self.floor[metric]);
            fit_group(&mut self.fleet, metric, floor, observed.iter().filter(all));
        }
        let floor = f64::from(self.floor[metric]);
        for (position, profile) in self.profiles.iter_mut().enumerate() {
            if profile.n_observed[metric] == 0 {
                profile.borrow(metric, &self.fleet);
                let members = observed.iter().filter(|one| one.profile == position);
                fit_group(profile, metric, floor, members);
            }
        }
        for one in observed {
            let server = &mut self.servers[one.server];
            let moments = &one.moments[metric];
            if server.n_observed[metric] > 0 {
                continue;
            }
            match moments.n {
                0 => server.borrow(metric, &self.profiles[one.profile]),
                n => server.set(metric, moments.mean, scale_of(moments, floor), n),
            }
        }
    }

    /// The statistics a server is scaled by: its own, else its profile's, else the fleet's. Codes are those of
    /// the vocabulary, 0 being unknown.
    pub fn stats(&self, server_id: u32, profile_id: u32) -> &Stats {
        let own = (server_id as usize).checked_sub(1).and_then(|position| self.servers.get(position));
        let profile =
            || (profile_id as usize).checked_sub(1).and_then(|position| self.profiles.get(position));
        own.or_else(profile).unwrap_or(&self.fleet)
    }
}

fn scale_of(moments: &Moments, floor: f64) -> f64 {
    moments.std.max(floor).max(RELATIVE_FLOOR * moments.mean.abs())
}

/// A tenth of the median spread among the servers on which the metric varies; 1 if it varies nowhere.
fn floor_of(metric: usize, observed: &[Observed]) -> f32 {
    let varying: Vec<f64> = observed
        .iter()
        .map(|one| &one.moments[metric])
        .filter(|moments| moments.n > 0 && moments.std > RELATIVE_FLOOR * moments.mean.abs())
        .map(|moments| moments.std)
        .collect();
    stats::median(&varying).map_or(1.0, |std| (FLOOR_SHARE * std).clamp(1e-30, 1e30) as f32)
}

/// Sets a group's centre to the median of its members' and its scale to the spread of a member it does not
/// know: the typical spread within a member and the spread between their centres. Members without values do
/// not count; without any the group stays as it is.
fn fit_group<'a>(group: &mut Stats, metric: usize, floor: f64, members: impl Iterator<Item = &'a Observed>) {
    let seen: Vec<&Moments> = members.map(|one| &one.moments[metric]).filter(|m| m.n > 0).collect();
    let centres: Vec<f64> = seen.iter().map(|moments| moments.mean).collect();
    let scales: Vec<f64> = seen.iter().map(|moments| scale_of(moments, floor)).collect();
    if let (Some(centre), Some(within)) = (stats::median(&centres), stats::median(&scales)) {
        let scale = within.hypot(stats::robust_spread(&centres));
        group.set(metric, centre, scale, seen.iter().map(|moments| moments.n).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(server: usize, values: &mut [f32]) -> Observed {
        Observed { server, profile: 0, moments: vec![stats::winsorised_moments(values)] }
    }

    fn fit(series: &mut [Vec<f32>]) -> Scaler {
        let observed: Vec<_> = series.iter_mut().enumerate().map(|(s, values)| observe(s, values)).collect();
        Scaler::fit(None, &observed, series.len(), 1, 1)
    }

    fn wave(amplitude: f32) -> Vec<f32> {
        (0..400).map(|i| 40.0 + amplitude * (i as f32 * 0.1).sin()).collect()
    }

    #[test]
    fn zeros_and_constants_are_held_by_the_fleets_floor() {
        let scaler = fit(&mut [wave(10.0), wave(12.0), vec![0.0; 400], vec![75.0; 400]]);
        let floor = scaler.floor[0];
        assert!((0.5..1.0).contains(&floor), "{floor}");
        assert_eq!(scaler.servers[2].scale[0], floor);
        assert_eq!((scaler.servers[3].centre[0], scaler.servers[3].scale[0]), (75.0, floor));
        assert_eq!(scaler.servers[2].scale(0, 0.0), 0.0);
    }

    #[test]
    fn a_metric_that_varies_nowhere_has_scale_one() {
        let scaler = fit(&mut [vec![0.0; 50], vec![3.0; 50]]);
        assert_eq!(scaler.servers[1].scale[0], 1.0);
        assert_eq!(scaler.servers[1].scale(0, 4.0), 1.0);
    }

    #[test]
    fn sparse_counts_keep_a_usable_scale() {
        let counts = |every: usize| (0..400).map(|i| if i % every == 0 { 8.0 } else { 0.0 }).collect();
        let scaler = fit(&mut [counts(10), counts(20), counts(1000)]);
        let stats = &scaler.servers[2]; // a single count in 400 steps
        assert!(stats.scale(0, 8.0).abs() < SCALED_LIMIT && stats.scale[0] > 0.1, "{stats:?}");
    }

    #[test]
    fn one_huge_outlier_flattens_neither_its_server_nor_the_fleet() {
        let mut spoilt = wave(10.0);
        spoilt[13] = 1e30;
        let scaler = fit(&mut [wave(10.0), spoilt, wave(10.0)]);
        assert!((5.0..9.0).contains(&scaler.servers[1].scale[0]), "{:?}", scaler.servers[1]);
        assert!((5.0..9.0).contains(&scaler.fleet.scale[0]));
        assert_eq!(scaler.servers[1].scale(0, 1e30), SCALED_LIMIT);
    }

    #[test]
    fn everything_finite_stays_finite() {
        let scaler = fit(&mut [vec![f32::MAX, f32::MIN, f32::MAX, f32::MIN], vec![1e-38; 4], vec![-0.0; 4]]);
        for stats in scaler.servers.iter().chain([&scaler.fleet]) {
            assert!(stats.scale[0] > 0.0 && stats.scale[0].is_finite() && stats.centre[0].is_finite());
            for value in [f32::MAX, f32::MIN, 0.0, 1e-38] {
                assert!(stats.scale(0, value).is_finite());
            }
        }
    }

    #[test]
    fn strangers_borrow_from_profile_then_fleet_and_known_servers_are_frozen() {
        let first = fit(&mut [wave(10.0), wave(20.0)]);
        let moved: Vec<f32> = wave(10.0).iter().map(|value| value + 500.0).collect();
        let observed = [observe(0, &mut moved.clone()), observe(2, &mut moved.clone())];
        let second = Scaler::fit(Some(&first), &observed, 3, 1, 1);
        assert_eq!(second.servers[..2], first.servers[..]);
        assert_eq!((&second.fleet, &second.floor), (&first.fleet, &first.floor));
        assert!((second.servers[2].centre[0] - 540.0).abs() < 2.0);
        assert_eq!(second.stats(0, 1), &second.profiles[0]);
        assert_eq!(second.stats(0, 9), &second.fleet);
        assert_eq!(second.stats(3, 0), &second.servers[2]);
    }

    #[test]
    fn a_metric_without_values_borrows_until_it_has_some() {
        let unseen = Observed { server: 1, profile: 0, moments: vec![Moments::default()] };
        let first = Scaler::fit(None, &[observe(0, &mut wave(10.0)), unseen], 2, 1, 1);
        assert_eq!(first.servers[1].scale, first.profiles[0].scale);
        assert_eq!(first.servers[1].n_observed, [0]);
        let second = Scaler::fit(Some(&first), &[observe(1, &mut wave(30.0))], 2, 1, 1);
        assert!(second.servers[1].n_observed[0] > 0 && second.servers[1].scale[0] > 15.0);
    }

    #[test]
    fn statistics_survive_json_bit_for_bit() {
        let scaler = fit(&mut [wave(1.0 / 3.0), wave(1e-7)]);
        let json = serde_json::to_string(&scaler).unwrap();
        assert_eq!(serde_json::from_str::<Scaler>(&json).unwrap(), scaler);
    }
}
