//! When work happens: the week of each profile in the fleet's zone, holidays, month ends.
//!
//! A profile's week is a curve of demand with mean one, built from humps on weekdays and others at weekends
//! and read at the wall clock, so that the nine o'clock rise moves with daylight saving as people do.
//! Noise, states and incidents come on top elsewhere.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use crate::calendar;

use super::roster::Profile;

const DAY_MINUTES: f64 = 1440.0;
/// Points of a curve per day: one every quarter of an hour.
const POINTS_PER_DAY: usize = 96;
const POINTS: usize = 7 * POINTS_PER_DAY;

/// The wall clock of the fleet at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LocalMoment {
    /// Minutes since Monday 00:00; a holiday counts as a Sunday.
    pub minute_of_week: f64,
    /// How much this date is a month end, 0..1.
    pub month_end: f64,
    /// The local date.
    pub date: NaiveDate,
}

impl LocalMoment {
    /// Whether people work on this date.
    pub(super) fn is_workday(&self) -> bool {
        self.minute_of_week < 5.0 * DAY_MINUTES
    }

    /// Hour of the day, with its fraction.
    pub(super) fn hour(&self) -> f64 {
        self.minute_of_week % DAY_MINUTES / 60.0
    }
}

/// Tells local time; remembers the facts of the last date asked for.
#[derive(Clone, Debug)]
pub(super) struct LocalClock {
    zone: Tz,
    holidays: Vec<NaiveDate>,
    /// Date, day of the week (0 is Monday), month-end weight.
    last: Option<(NaiveDate, f64, f64)>,
}

impl LocalClock {
    pub(super) fn new(zone: Tz, holidays: &[NaiveDate]) -> Self {
        Self { zone, holidays: holidays.to_vec(), last: None }
    }

    /// The wall clock at `time_ms`.
    pub(super) fn at(&mut self, time_ms: i64) -> LocalMoment {
        let local = calendar::to_utc(time_ms).with_timezone(&self.zone);
        let date = local.date_naive();
        let (_, weekday, month_end) = match self.last {
            Some(facts) if facts.0 == date => facts,
            _ => *self.last.insert((date, self.weekday(date), self.month_end(date))),
        };
        let minute = f64::from(local.num_seconds_from_midnight()) / 60.0;
        LocalMoment { minute_of_week: weekday * DAY_MINUTES + minute, month_end, date }
    }

    /// The instant at which the clock shows `minute` on the `day`-th day since 1970-01-01, in milliseconds.
    ///
    /// A time that daylight saving skips is taken an hour later, one that happens twice the first time.
    pub(super) fn instant_ms(&self, day: i64, minute: f64) -> i64 {
        let date = DateTime::<Utc>::UNIX_EPOCH.date_naive() + chrono::Duration::days(day);
        let naive = date.and_time(NaiveTime::MIN) + chrono::Duration::seconds((minute * 60.0) as i64);
        let shown = |naive| self.zone.from_local_datetime(&naive).earliest();
        shown(naive)
            .or_else(|| shown(naive + chrono::Duration::hours(1)))
            .map_or_else(|| naive.and_utc().timestamp_millis(), |time| time.timestamp_millis())
    }

    fn is_workday(&self, date: NaiveDate) -> bool {
        date.weekday().num_days_from_monday() < 5 && !self.holidays.contains(&date)
    }

    fn weekday(&self, date: NaiveDate) -> f64 {
        if self.holidays.contains(&date) { 6.0 } else { f64::from(date.weekday().num_days_from_monday()) }
    }

    /// One on the last workday of a month, less on the one before and on the first.
    fn month_end(&self, date: NaiveDate) -> f64 {
        if !self.is_workday(date) {
            return 0.0;
        }
        let is_same_month = |other: &NaiveDate| other.month() == date.month();
        let days_after = (1..31).map(|days| date + Days::new(days)).take_while(is_same_month);
        let days_before = (1..31).map(|days| date - Days::new(days)).take_while(is_same_month);
        match days_after.filter(|day| self.is_workday(*day)).count() {
            0 => 1.0,
            1 => 0.6,
            _ if days_before.filter(|day| self.is_workday(*day)).count() == 0 => 0.4,
            _ => 0.0,
        }
    }
}

/// A rise of demand around an hour of the day: centre and width in hours, height over the floor.
type Hump = (f64, f64, f64);

/// A day's demand before it is scaled: a floor and the humps on it.
struct DayShape {
    floor: f64,
    humps: &'static [Hump],
}

/// Weekday and weekend of a profile. Web and risk live in business hours, machine learning and ingest work
/// at night, databases do both, a conductor follows whoever submits jobs.
fn shapes(profile: Profile) -> [DayShape; 2] {
    let of = |floor, humps| DayShape { floor, humps };
    match profile {
        Profile::WebApi => [
            of(0.40, &[(10.0, 2.0, 0.75), (14.5, 2.3, 0.80), (20.0, 1.8, 0.30)]),
            of(0.34, &[(13.0, 3.5, 0.32), (20.0, 2.0, 0.22)]),
        ],
        Profile::RiskAnalytics => [
            of(0.50, &[(9.5, 1.3, 0.45), (13.0, 3.0, 0.30), (16.8, 1.3, 0.80), (22.0, 1.5, 0.25)]),
            of(0.38, &[(11.0, 3.0, 0.12)]),
        ],
        Profile::MlCompute => [
            of(0.62, &[(1.5, 3.0, 0.75), (14.0, 3.0, 0.25), (21.5, 2.0, 0.35)]),
            of(0.64, &[(2.0, 4.0, 0.40)]),
        ],
        Profile::DataIngest => [
            of(0.55, &[(2.5, 1.6, 1.20), (6.3, 1.0, 0.55), (17.5, 1.5, 0.35)]),
            of(0.42, &[(2.5, 1.6, 0.65)]),
        ],
        Profile::Database => [
            of(0.50, &[(1.0, 1.3, 0.45), (10.3, 2.2, 0.60), (15.0, 2.4, 0.65)]),
            of(0.40, &[(1.0, 1.6, 0.60), (13.0, 3.5, 0.20)]),
        ],
        Profile::ConductorMgmt => [
            of(0.62, &[(2.0, 2.0, 0.40), (11.0, 2.3, 0.45), (15.5, 2.3, 0.40)]),
            of(0.60, &[(2.0, 2.0, 0.35)]),
        ],
        Profile::Generic => [of(0.80, &[(12.5, 4.0, 0.40)]), of(0.75, &[(12.5, 4.0, 0.10)])],
    }
}

/// How much more a profile works on the last workday of a month.
fn month_end_gain(profile: Profile) -> f64 {
    match profile {
        Profile::RiskAnalytics => 0.40,
        Profile::DataIngest => 0.30,
        Profile::Database => 0.20,
        Profile::ConductorMgmt | Profile::MlCompute => 0.10,
        Profile::WebApi => 0.06,
        Profile::Generic => 0.0,
    }
}

/// The demand curve of one profile's week.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    /// A value every quarter of an hour from Monday 00:00, with mean one.
    curve: Vec<f64>,
    month_end_gain: f64,
    /// Height of the micro-batch that begins every hour.
    hourly_batch: f64,
}

impl Rhythm {
    pub(super) fn of(profile: Profile) -> Self {
        let [weekday, weekend] = shapes(profile);
        let raw: Vec<f64> = (0..POINTS)
            .map(|point| {
                let shape = if point < 5 * POINTS_PER_DAY { &weekday } else { &weekend };
                shape.at((point % POINTS_PER_DAY) as f64 * 24.0 / POINTS_PER_DAY as f64)
            })
            .collect();
        // Friday night fades into Saturday: five quarters of an hour are averaged.
        let smooth = |point: usize| (0..5).map(|k| raw[(point + POINTS + k - 2) % POINTS]).sum::<f64>() / 5.0;
        let mean = raw.iter().sum::<f64>() / POINTS as f64;
        Self {
            curve: (0..POINTS).map(|point| smooth(point) / mean).collect(),
            month_end_gain: month_end_gain(profile),
            hourly_batch: if profile == Profile::DataIngest { 0.35 } else { 0.0 },
        }
    }

    /// Demand at a local moment of a server whose day runs `phase_minutes` late and that follows its
    /// profile's rhythm `depth` times; one on average.
    pub(super) fn demand(&self, moment: &LocalMoment, phase_minutes: f64, depth: f64) -> f64 {
        let minute = (moment.minute_of_week - phase_minutes).rem_euclid(7.0 * DAY_MINUTES);
        let position = minute / (DAY_MINUTES / POINTS_PER_DAY as f64);
        let (left, part) = (position as usize, position.fract());
        let curve = self.curve[left % POINTS] * (1.0 - part) + self.curve[(left + 1) % POINTS] * part;
        let month_end = 1.0 + self.month_end_gain * moment.month_end;
        let batch = match self.hourly_batch {
            0.0 => 0.0,
            // Decays over eight minutes; the mean over the hour is taken off.
            height => height * ((-(minute % 60.0) / 8.0).exp() - 8.0 / 60.0),
        };
        ((1.0 + depth * (curve * month_end - 1.0)) + batch).max(0.08)
    }
}

impl DayShape {
    fn at(&self, hour: f64) -> f64 {
        let hump = |(centre, width, height): &Hump| {
            let away = (hour - centre).rem_euclid(24.0);
            let away = away.min(24.0 - away);
            height * (-0.5 * (away / width).powi(2)).exp()
        };
        self.floor + self.humps.iter().map(hump).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_millis()
    }

    #[test]
    fn weeks_have_mean_one_and_every_profile_tells_day_from_night_and_weekend() {
        for profile in Profile::ALL {
            let rhythm = Rhythm::of(profile);
            let mean = rhythm.curve.iter().sum::<f64>() / POINTS as f64;
            assert!((mean - 1.0).abs() < 1e-9, "{profile:?} {mean}");
            let mean_of = |days: std::ops::Range<usize>| {
                let part = &rhythm.curve[days.start * POINTS_PER_DAY..days.end * POINTS_PER_DAY];
                part.iter().sum::<f64>() / part.len() as f64
            };
            assert!((mean_of(0..5) / mean_of(5..7) - 1.0).abs() > 0.05, "{profile:?} has no weekend");
            let monday = &rhythm.curve[..POINTS_PER_DAY];
            let highest = monday.iter().copied().fold(0.0, f64::max);
            let lowest = monday.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(highest / lowest > 1.3, "{profile:?} has no day");
        }
    }

    #[test]
    fn the_rhythm_moves_with_daylight_saving() {
        let mut clock = LocalClock::new(chrono_tz::America::New_York, &[]);
        // Friday before and Monday after the clocks went forward on 2024-03-10.
        let before = clock.at(ms("2024-03-08T14:00:00Z"));
        let after = clock.at(ms("2024-03-11T13:00:00Z"));
        assert_eq!((before.hour(), after.hour()), (9.0, 9.0));
        // 02:30 does not exist on that Sunday.
        let day = ms("2024-03-10T00:00:00Z") / 86_400_000;
        assert_eq!(clock.instant_ms(day, 150.0), ms("2024-03-10T07:30:00Z"));
    }

    #[test]
    fn holidays_are_sundays_and_move_the_month_end() {
        let holiday: NaiveDate = "2024-05-31".parse().unwrap();
        let mut plain = LocalClock::new(Tz::UTC, &[]);
        let mut clock = LocalClock::new(Tz::UTC, &[holiday]);
        let friday = ms("2024-05-31T12:00:00Z");
        assert_eq!(plain.at(friday).month_end, 1.0);
        assert!(plain.at(friday).is_workday());
        assert!(!clock.at(friday).is_workday());
        assert_eq!(clock.at(friday - 86_400_000).month_end, 1.0);
        assert_eq!(plain.at(ms("2024-06-03T12:00:00Z")).month_end, 0.4);
        assert_eq!(plain.at(ms("2024-06-12T12:00:00Z")).month_end, 0.0);
    }
}
