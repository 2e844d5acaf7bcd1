//! Days are days of the zone, with their true length, at any time that somebody rotates.

use super::*;
use crate::calendar;

const HALF_HOUR_MS: i64 = 1_800_000;

fn at_ms(time_ms: i64, value: i64) -> String {
    format!("{{\"timestamp\":{time_ms},\"server_name\":\"a\",\"cpu\":{value}}}\n")
}

/// Half-hourly rows over a day and its neighbours, and rows at the very edges, land where the calendar says.
#[track_caller]
fn case(zone: Tz, day: &str, half_hours: i64) {
    let (start, end) = calendar::day_bounds_ms(date(day), zone);
    assert_eq!(end - start, half_hours * HALF_HOUR_MS, "{day} in {zone}");
    let mut bench = Bench::new(&["cpu"], "2024-01-01T00:00:00Z");
    bench.config.timezone = zone;
    bench.config.data_retention_days = 99_999;
    bench.config.series.step_secs = 1800;
    bench.now = calendar::to_utc(end + 3 * 86_400_000);
    let (first, last) = (start - 4 * HALF_HOUR_MS, end + 4 * HALF_HOUR_MS);
    let mut text: String = (first..last).step_by(HALF_HOUR_MS as usize).map(|ms| at_ms(ms, 1)).collect();
    text += &(at_ms(start - 1, 2) + &at_ms(start + 1, 2) + &at_ms(end - 1, 2) + &at_ms(end + 1, 2));
    assert_eq!(bench.append(&text).n_bad, 0);
    let read = |bench: &Bench| {
        let buffer = bench.buffer();
        let n_rows = |day: NaiveDate| buffer.read_steps(day).unwrap().n_raw_rows();
        let (before, after) = (calendar::days_before(date(day), 1), calendar::days_after(date(day), 1));
        let steps = buffer.read_steps(date(day)).unwrap();
        assert!(
            steps.step_ms.iter().all(|ms| (start..end).contains(ms)),
            "{day} in {zone}: a step of another day"
        );
        assert_eq!(steps.len() as i64, half_hours, "{day} in {zone}");
        [before, date(day), after].map(n_rows)
    };
    let expected = [5, half_hours as u64 + 2, 5];
    assert_eq!(read(&bench), expected, "{day} in {zone}, open");
    bench.rotate();
    assert_eq!(read(&bench), expected, "{day} in {zone}, sealed");
    assert_eq!(bench.sealed(day).len() as i64, half_hours + 2);
    let options = VerifyOptions { read_data: true, day: Some(date(day)), ..VerifyOptions::default() };
    assert_eq!(bench.buffer().verify(&options, &Silent).unwrap().findings, []);
}

#[test]
fn days_of_any_length_hold_exactly_their_rows() {
    case(Tz::America__New_York, "2024-03-10", 46);
    case(Tz::America__New_York, "2024-11-03", 50);
    case(Tz::America__New_York, "2024-07-01", 48);
    case(Tz::Australia__Lord_Howe, "2024-04-07", 49);
    case(Tz::Australia__Lord_Howe, "2024-10-06", 47);
    case(Tz::Asia__Kolkata, "2024-05-05", 48);
    // These have no midnight: the clock goes from 23:59:59 to 01:00:00.
    case(Tz::America__Sao_Paulo, "2018-11-04", 46);
    case(Tz::Africa__Cairo, "2024-04-26", 46);
}

#[test]
fn a_rotation_on_either_side_of_midnight_seals_what_is_over() {
    let mut bench = Bench::new(&["cpu"], "2024-03-11T03:59:59Z");
    bench.config.timezone = Tz::America__New_York;
    bench.append(&(record("2024-03-10T12:00:00Z", "a", 1.0) + &record("2024-03-11T03:59:58Z", "a", 2.0)));
    assert_eq!(bench.rotate().sealed, [], "23:59:59 of the day with 23 hours");
    let bench = bench.at("2024-03-11T04:00:00Z");
    assert_eq!(bench.rotate().sealed[0].n_rows, 2, "00:00:00");
    let before = snapshot(bench.dir.path());
    let report = bench.rotate();
    assert!(report.sealed.is_empty() && report.steps_written.is_empty());
    assert_eq!(before, snapshot(bench.dir.path()), "twice is once");
}

#[test]
fn today_can_be_sealed_again_and_again() {
    let mut bench = Bench::new(&["cpu"], "2024-01-01T06:00:00Z");
    let seal = |bench: &Bench| {
        let options = RotateOptions { include_open: true, dry_run: false };
        let report = bench.buffer().rotate(&options, bench.now, &Silent).unwrap();
        assert_eq!(report.failed, []);
        report.sealed.first().map(|day| (day.n_rows, day.n_duplicates, day.is_merge))
    };
    bench.append(&(record("2024-01-01T00:00:00Z", "a", 1.0) + &record("2024-01-01T00:00:05Z", "a", 1.0)));
    assert_eq!(seal(&bench), Some((2, 0, false)));
    assert_eq!(seal(&bench), None);
    let digests = bench.buffer().source_digests(date("2024-01-01")).unwrap();
    bench = bench.at("2024-01-01T12:00:00Z");
    let report =
        bench.append(&(record("2024-01-01T00:00:05Z", "a", 9.0) + &record("2024-01-01T11:00:00Z", "a", 3.0)));
    assert_eq!(report.n_late, 2);
    assert_eq!(seal(&bench), Some((3, 1, true)));
    assert_eq!(bench.sealed("2024-01-01")[1], "a 1704067205000 [9.0]");
    // A window is named after the digests of its sources: late rows make another one.
    assert_ne!(bench.buffer().source_digests(date("2024-01-01")).unwrap(), digests);
    let bench = bench.at("2024-01-02T00:00:00Z");
    assert_eq!(bench.rotate().sealed, []);
}

#[test]
fn rows_of_the_future_are_held_to_the_skew() {
    let mut bench = Bench::new(&["cpu"], "2024-01-01T23:59:00Z");
    bench.config.series.max_future_secs = 120;
    let report =
        bench.append(&(record("2024-01-02T00:01:00Z", "a", 1.0) + &record("2024-01-02T00:01:01Z", "a", 1.0)));
    assert_eq!((report.n_good, report.n_bad), (1, 1));
    // Tomorrow's row is not sealed before tomorrow is over, not even with today's.
    let options = RotateOptions { include_open: true, dry_run: false };
    assert_eq!(bench.buffer().rotate(&options, bench.now, &Silent).unwrap().sealed, []);
    let bench = bench.at("2024-01-03T00:00:00Z");
    assert_eq!(bench.rotate().sealed[0].date, date("2024-01-02"));
}

#[test]
fn a_zone_that_is_changed_later_moves_rows_to_other_days_and_loses_none() {
    let mut bench = Bench::new(&["cpu"], "2024-01-10T12:00:00Z");
    let hourly = |first: i64, n: i64| -> String {
        let start = time("2024-01-01T00:00:00Z").timestamp_millis();
        (first..first + n).map(|hour| at_ms(start + hour * 3_600_000, hour)).collect()
    };
    bench.append(&hourly(0, 96));
    bench.rotate();
    for zone in [Tz::America__New_York, Tz::Asia__Kolkata, Tz::Pacific__Auckland] {
        bench.config.timezone = zone;
        let total = |bench: &Bench| -> u64 {
            let buffer = bench.buffer();
            let days = buffer.days().unwrap();
            days.iter().map(|day| buffer.read_steps(day.date).unwrap().n_raw_rows()).sum()
        };
        assert_eq!(total(&bench), 96, "{zone}");
        // A late row that is there already, cut by the zone of today.
        bench.append(&hourly(30, 1));
        bench.rotate();
        assert_eq!(total(&bench), 96, "{zone}, with a late row");
    }
}
