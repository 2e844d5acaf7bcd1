//! When the jobs start, and on which days the zone has no such time, or has it twice.

use chrono::{Days, MappedLocalTime, NaiveDate, NaiveTime, TimeDelta, TimeZone};
use chrono_tz::Tz;

use super::SchedulePlan;

const CATCH_UP_AFTER: TimeDelta = TimeDelta::minutes(90);
/// Added to our own limit, so that the scheduler's comes second: it may end us without a signal.
const GRACE_MINUTES: u32 = 30;

/// The local times of a plan's three jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunTimes {
    /// `buffer rotate`: just after midnight, with time for the last rows to arrive.
    pub rotate: NaiveTime,
    /// `nightly`.
    pub nightly: NaiveTime,
    /// `nightly` again.
    pub catch_up: NaiveTime,
    /// Whether the catch-up falls on the next day, and so on another logical date.
    pub is_catch_up_tomorrow: bool,
}

impl RunTimes {
    /// The times of `plan`.
    pub fn of(plan: &SchedulePlan) -> Self {
        let (catch_up, wrapped_secs) = plan.training_time.overflowing_add_signed(CATCH_UP_AFTER);
        Self {
            rotate: NaiveTime::from_hms_opt(0, 10, 0).expect("00:10 is a time"),
            nightly: plan.training_time,
            catch_up,
            is_catch_up_tomorrow: wrapped_secs != 0,
        }
    }
}

/// Minutes after which the scheduler ends a night that did not end itself.
pub(super) fn limit_minutes(plan: &SchedulePlan) -> u32 {
    (plan.max_training_duration_hours * 60.0).ceil() as u32 + GRACE_MINUTES
}

/// Days on which a local time is not just there once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IrregularDays {
    pub vanishes: Vec<NaiveDate>,
    pub repeats: Vec<NaiveDate>,
}

/// The irregular days of `time` in `zone` in the two years from `today` on.
pub(super) fn irregular_days(time: NaiveTime, zone: Tz, today: NaiveDate) -> IrregularDays {
    let mut days = IrregularDays::default();
    let end = today + Days::new(2 * 366);
    for day in today.iter_days().take_while(|day| *day < end) {
        match zone.from_local_datetime(&day.and_time(time)) {
            MappedLocalTime::None => days.vanishes.push(day),
            MappedLocalTime::Ambiguous(..) => days.repeats.push(day),
            MappedLocalTime::Single(_) => {}
        }
    }
    days
}
