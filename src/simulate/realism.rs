//! Whether the fleet looks like one: what a person who runs servers would check in a plot, checked in numbers.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;

use super::*;
use crate::progress::Silent;
use crate::schema::Schema;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A fleet from Monday 2024-03-04 on, undisturbed.
fn calm(n_servers: u32, days: i64, tick_secs: u32) -> FleetSpec {
    let start = time("2024-03-04T00:00:00Z");
    FleetSpec {
        n_servers,
        start,
        end: start + Duration::days(days),
        tick_secs,
        incidents_per_server_week: 0.0,
        ..FleetSpec::default()
    }
}

fn ndjson(spec: &FleetSpec) -> (String, String, SimulationReport) {
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let report = Fleet::new(spec).unwrap().write_ndjson(&mut rows, &mut labels, &Silent).unwrap();
    (String::from_utf8(rows).unwrap(), String::from_utf8(labels).unwrap(), report)
}

/// What tests keep of a row.
#[derive(Clone, Copy)]
struct Seen {
    time_ms: i64,
    status: Status,
    metrics: [f64; 14],
}

/// All rows by server, in order of arrival.
fn watch(spec: &FleetSpec) -> BTreeMap<String, Vec<Seen>> {
    let mut seen: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    let keep = |row: &SimulatedRow<'_>| {
        let one = Seen { time_ms: row.time_ms, status: row.status, metrics: row.metrics };
        seen.entry(row.server.name.clone()).or_default().push(one);
        Ok(())
    };
    Fleet::new(spec).unwrap().for_each_row(keep).unwrap();
    seen
}

/// Means by server and hour since the beginning, of the metric of this name; NaN where there is no row.
fn hourly(spec: &FleetSpec, metric: &str) -> BTreeMap<String, Vec<f64>> {
    let metric = METRICS.iter().position(|name| *name == metric).unwrap();
    let (start_ms, n_hours) = (spec.start.timestamp_millis(), (spec.end - spec.start).num_hours() as usize);
    let means = |rows: Vec<Seen>| {
        let mut sums = vec![(0.0, 0.0); n_hours];
        for row in rows {
            let hour = &mut sums[((row.time_ms - start_ms) / HOUR_MS) as usize];
            *hour = (hour.0 + row.metrics[metric], hour.1 + 1.0);
        }
        sums.into_iter().map(|(sum, n)| sum / n).collect()
    };
    watch(spec).into_iter().map(|(name, rows)| (name, means(rows))).collect()
}

fn of_profile<'a>(
    series: &'a BTreeMap<String, Vec<f64>>,
    profile: &'static str,
) -> impl Iterator<Item = &'a Vec<f64>> {
    let schema = Schema::fleet14();
    series.iter().filter(move |(name, _)| schema.profile_of(name) == profile).map(|(_, values)| values)
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, n) = values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    sum / n
}

fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let pairs: Vec<_> = pairs.iter().filter(|(a, b)| a.is_finite() && b.is_finite()).collect();
    let (mean_a, mean_b) = (mean(pairs.iter().map(|p| p.0)), mean(pairs.iter().map(|p| p.1)));
    let sum = |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|p| f(p.0 - mean_a, p.1 - mean_b)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[test]
fn every_record_is_what_the_buffer_expects() {
    let schema = Schema::fleet14();
    let (rows, _, report) = ndjson(&FleetSpec { incidents_per_server_week: 7.0, ..calm(21, 1, 120) });
    assert_eq!(rows.lines().count() as u64, report.n_rows);
    for line in rows.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let keys: Vec<&String> = record.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 5, "{line}");
        time(record["timestamp"].as_str().unwrap());
        let name = record["server_name"].as_str().unwrap();
        assert_eq!(record["profile"], schema.profile_of(name));
        assert!(record["status"].is_string());
        let metrics = record["metrics"].as_object().unwrap();
        assert_eq!(metrics.len(), schema.metrics.len());
        for metric in &schema.metrics {
            let value = metrics[&metric.name].as_f64().unwrap();
            assert!(metric.is_in_range(value as f32), "{} {value}", metric.name);
        }
        let share = |name: &str| metrics[name].as_f64().unwrap();
        let sum: f64 = METRICS[..4].iter().map(|name| share(name)).sum();
        assert!((sum - 100.0).abs() < 1e-9, "{sum} in {line}");
    }
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_do_not() {
    let spec = FleetSpec {
        incidents_per_server_week: 5.0,
        missing_rate: 0.02,
        late_rate: 0.02,
        duplicate_rate: 0.02,
        ..calm(10, 1, 300)
    };
    assert_eq!(ndjson(&spec), ndjson(&spec));
    assert_ne!(ndjson(&spec).0, ndjson(&FleetSpec { seed: 43, ..spec }).0);
}

#[test]
fn the_reader_gives_the_bytes_that_are_written() {
    let spec = FleetSpec { late_rate: 0.05, ..calm(9, 1, 600) };
    let mut text = String::new();
    Fleet::new(&spec).unwrap().reader().read_to_string(&mut text).unwrap();
    assert_eq!(text, ndjson(&spec).0);
}

#[test]
fn more_servers_change_nothing_for_those_that_were_there() {
    let spec = FleetSpec { incidents_per_server_week: 5.0, missing_rate: 0.05, ..calm(12, 2, 300) };
    let (few, many) = (watch(&spec), watch(&FleetSpec { n_servers: 40, ..spec }));
    for (name, rows) in few {
        let same = &many[&name];
        assert_eq!(rows.len(), same.len(), "{name}");
        assert!(rows.iter().zip(same).all(|(a, b)| a.metrics == b.metrics && a.status == b.status), "{name}");
    }
}

#[test]
fn two_parts_hold_the_rows_of_the_whole() {
    let whole = FleetSpec {
        incidents_per_server_week: 6.0,
        missing_rate: 0.03,
        late_rate: 0.05,
        duplicate_rate: 0.03,
        zone: chrono_tz::America::New_York,
        ..calm(12, 9, 300)
    };
    let seam = time("2024-03-10T06:35:00Z");
    let sorted = |spec: &FleetSpec| {
        let mut lines: Vec<String> = ndjson(spec).0.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut parts = sorted(&FleetSpec { end: seam, ..whole.clone() });
    parts.extend(sorted(&FleetSpec { start: seam, ..whole.clone() }));
    parts.sort();
    assert!(sorted(&whole) == parts, "the rows of the parts differ from those of the whole");
}

#[test]
fn what_is_seen_does_not_depend_on_the_tick() {
    let fine = FleetSpec { incidents_per_server_week: 5.0, ..calm(7, 1, 5) };
    let coarse = FleetSpec { tick_secs: 60, ..fine.clone() };
    for metric in ["cpu_user_pct", "net_in_mb_s", "load_average", "back_close_wait", "mem_used_pct"] {
        let (fine, coarse) = (hourly(&fine, metric), hourly(&coarse, metric));
        for (name, values) in &fine {
            let pairs = values.iter().zip(&coarse[name]);
            let error = mean(pairs.map(|(a, b)| (a - b).abs())) / mean(values.iter().copied());
            assert!(error < 0.04, "{name} {metric}: hourly means differ by {error}");
        }
    }
    let (fine, coarse) = (watch(&fine), watch(&coarse));
    let fine: HashMap<i64, [f64; 14]> =
        fine["ppweb0001"].iter().map(|row| (row.time_ms, row.metrics)).collect();
    assert!(coarse["ppweb0001"].iter().all(|row| fine[&row.time_ms] == row.metrics));
}

#[test]
fn levels_are_those_of_the_profiles_and_servers_differ() {
    let series = hourly(&calm(140, 14, 900), "cpu_user_pct");
    let mem = hourly(&calm(140, 14, 900), "mem_used_pct");
    for profile in Profile::ALL {
        let base = profile.baseline();
        let levels = |series| -> Vec<f64> {
            of_profile(series, profile.name()).map(|values| mean(values.iter().copied())).collect()
        };
        let spread = |levels: &[f64]| {
            let centre = mean(levels.iter().copied());
            mean(levels.iter().map(|level| (level - centre).powi(2))).sqrt()
        };
        let (cpu, mem) = (levels(&series), levels(&mem));
        let (cpu_mean, mem_mean) = (mean(cpu.iter().copied()), mean(mem.iter().copied()));
        assert!((cpu_mean / base.user - 1.0).abs() < 0.3, "{profile:?} user {cpu_mean}");
        assert!((mem_mean - base.mem).abs() < 9.0, "{profile:?} mem {mem_mean}");
        assert!(spread(&cpu) > 0.08 * cpu_mean, "{profile:?} cpu levels {cpu:?}");
        assert!(spread(&mem) > 2.0, "{profile:?} mem levels {mem:?}");
    }
}

#[test]
fn days_and_weeks_are_seen_in_every_profile() {
    let series = hourly(&calm(70, 14, 900), "cpu_user_pct");
    for profile in Profile::ALL {
        let at = |is_wanted: &dyn Fn(usize, usize) -> bool| {
            let hours = |values: &Vec<f64>| {
                let wanted =
                    values.iter().enumerate().filter(|(hour, _)| is_wanted(hour / 24 % 7, hour % 24));
                mean(wanted.map(|(_, value)| *value))
            };
            mean(of_profile(&series, profile.name()).map(hours))
        };
        let noon = at(&|day, hour| day < 5 && (10..16).contains(&hour));
        let night = at(&|day, hour| day < 5 && (1..5).contains(&hour));
        let (week, weekend) = (at(&|day, _| day < 5), at(&|day, _| day >= 5));
        match profile {
            Profile::MlCompute | Profile::DataIngest => {
                assert!(night > 1.25 * noon, "{profile:?} {night} {noon}")
            }
            _ => assert!(noon > 1.12 * night, "{profile:?}: noon {noon}, night {night}"),
        }
        assert!(week > 1.03 * weekend, "{profile:?}: week {week}, weekend {weekend}");
    }
}

#[test]
fn people_and_their_load_get_up_an_hour_earlier_in_summer_time() {
    let spec = FleetSpec { zone: chrono_tz::America::New_York, ..calm(70, 12, 900) };
    let series = hourly(&spec, "net_in_mb_s");
    // Clocks go forward on Sunday 2024-03-10. Mean day of the workdays before and after, in UTC hours.
    let day = |days: std::ops::Range<usize>, hour: usize| {
        let hour_of = |values: &Vec<f64>| mean(days.clone().map(|day| values[day * 24 + hour]));
        mean(of_profile(&series, "web_api").map(hour_of))
    };
    let shifted = |by: usize| -> f64 {
        let pairs: Vec<_> = (9..23).map(|hour| (day(1..5, hour), day(7..11, hour - by))).collect();
        correlation(&pairs)
    };
    assert!(shifted(1) > shifted(0) + 0.01, "an hour {}, none {}", shifted(1), shifted(0));
    assert!(shifted(1) > shifted(2) + 0.01, "an hour {}, two {}", shifted(1), shifted(2));
}

#[test]
fn yesterday_tells_much_of_today_but_not_all() {
    let series = hourly(&calm(60, 21, 900), "cpu_user_pct");
    let lagged = |lag: usize| {
        mean(of_profile(&series, "web_api").map(|values| {
            let pairs: Vec<_> = values.iter().zip(&values[lag..]).map(|(a, b)| (*a, *b)).collect();
            correlation(&pairs)
        }))
    };
    let (day, week, odd) = (lagged(24), lagged(168), lagged(24 * 7 / 2));
    assert!((0.5..0.95).contains(&day), "a day ago {day}");
    assert!((0.6..0.97).contains(&week) && week > day, "a week ago {week}, a day {day}");
    assert!(odd < day - 0.3, "three and a half days ago {odd}");
}

#[test]
fn no_naive_rule_is_best_at_every_horizon() {
    let web: Vec<Vec<f64>> = watch(&calm(60, 15, 300))
        .into_iter()
        .filter(|(name, _)| name.starts_with("ppweb"))
        .map(|(_, rows)| rows.iter().map(|row| row.metrics[0]).collect())
        .collect();
    // Mean error of telling a value by the one `steps` of five minutes before it.
    let error = |steps: usize| {
        mean(web.iter().map(|values| mean(values.iter().zip(&values[steps..]).map(|(a, b)| (a - b).abs()))))
    };
    let (minutes, hours, day, week) = (error(1), error(96), error(288), error(7 * 288));
    assert!(minutes < 0.6 * day, "five minutes ago {minutes}, a day ago {day}");
    assert!(day < 0.8 * hours, "eight hours ago {hours}, a day ago {day}");
    assert!(week < day, "a day ago {day}, a week ago {week}");
}

#[test]
fn minutes_hang_together_and_profiles_move_together() {
    let spec = calm(30, 7, 300);
    let user: BTreeMap<String, Vec<f64>> = watch(&spec)
        .into_iter()
        .map(|(name, rows)| (name, rows.iter().map(|row| row.metrics[0].ln()).collect()))
        .collect();
    for values in user.values() {
        let pairs: Vec<_> = values.iter().zip(&values[1..]).map(|(a, b)| (*a, *b)).collect();
        assert!((0.6..0.995).contains(&correlation(&pairs)), "five minutes {}", correlation(&pairs));
    }
    // What a rhythm of 24 hours does not explain is still shared within a profile.
    let residual: BTreeMap<String, Vec<f64>> = hourly(&calm(60, 28, 900), "cpu_user_pct")
        .into_iter()
        .map(|(name, values)| (name, values.iter().zip(&values[168..]).map(|(a, b)| b - a).collect()))
        .collect();
    let web: Vec<&Vec<f64>> = of_profile(&residual, "web_api").collect();
    let pair =
        |a: &[f64], b: &[f64]| correlation(&a.iter().zip(b).map(|(a, b)| (*a, *b)).collect::<Vec<_>>());
    let shared = mean((1..web.len()).map(|other| pair(web[0], web[other])));
    assert!((0.05..0.8).contains(&shared), "correlation of residuals {shared}");
}

#[test]
fn states_last_minutes_to_hours_in_the_rows_too() {
    let mut stays: HashMap<Status, Vec<f64>> = HashMap::new();
    for rows in watch(&FleetSpec { incidents_per_server_week: 2.0, ..calm(20, 14, 60) }).values() {
        let mut since = 0;
        for next in 1..rows.len() {
            if rows[next].status != rows[next - 1].status {
                let minutes = (rows[next].time_ms - rows[since].time_ms) as f64 / 60_000.0;
                stays.entry(rows[since].status).or_default().push(minutes);
                since = next;
            }
        }
    }
    for (status, mut minutes) in stays {
        minutes.sort_by(f64::total_cmp);
        let median = minutes[minutes.len() / 2];
        assert!((8.0..300.0).contains(&median), "{status:?} lasts {median} minutes");
    }
}

#[test]
fn uptime_counts_days_and_starts_again_at_a_boot() {
    let spec = FleetSpec { incidents_per_server_week: 1.0, ..calm(20, 70, 1800) };
    let mut n_boots = 0;
    for (name, rows) in watch(&spec) {
        let mut boot: Option<i64> = None;
        for pair in rows.windows(2) {
            let (before, after) = (pair[0].metrics[13], pair[1].metrics[13]);
            if after < before {
                assert_eq!(after, 0.0, "{name} boots into day {after}");
                (boot, n_boots) = (Some(pair[1].time_ms), n_boots + 1);
            }
            if let Some(boot) = boot {
                let days = (pair[1].time_ms - boot) / DAY_MS;
                assert!((days as f64 - after).abs() <= 1.0, "{name}: {days} days since boot, uptime {after}");
            }
        }
        assert!(boot.is_some(), "{name} was never patched");
    }
    assert!(n_boots < 20 * 12, "{n_boots} boots in ten weeks");
}

#[test]
fn disks_fill_and_are_cleaned_up_now_and_then() {
    for (name, rows) in watch(&calm(20, 45, 1800)) {
        let levels: Vec<f64> = rows.iter().map(|row| row.metrics[7]).collect();
        let n_cleanups = levels.windows(2).filter(|pair| pair[1] < pair[0]).count();
        let filled: f64 = levels.windows(2).map(|pair| (pair[1] - pair[0]).max(0.0)).sum();
        assert!((1..=6).contains(&n_cleanups), "{name}: {n_cleanups} clean-ups in 45 days");
        assert!((2.0..60.0).contains(&filled), "{name} filled by {filled}");
    }
}

/// What tests keep of a label.
struct Told {
    server: String,
    kind: String,
    /// Position of the metric that shows it best.
    metric: usize,
    /// Start, worst from, worst until, end.
    times_ms: [i64; 4],
}

fn told(labels: &str) -> Vec<Told> {
    let parse = |line: &str| {
        let label: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| label[key].as_str().unwrap().to_owned();
        let clearest = label["metrics"][0].as_str().unwrap();
        Told {
            server: text("server_name"),
            kind: text("kind"),
            metric: METRICS.iter().position(|name| *name == clearest).unwrap(),
            times_ms: ["start", "peak_start", "peak_end", "end"]
                .map(|key| time(&text(key)).timestamp_millis()),
        }
    };
    labels.lines().map(parse).collect()
}

impl Told {
    /// Means of the clearest metric in the two hours before the incident and at its worst.
    fn before_and_at_worst(&self, rows: &[Seen]) -> Option<(f64, f64)> {
        let [start, peak, relief, _] = self.times_ms;
        let during = |from: i64, to: i64| {
            let rows = rows.iter().filter(|row| (from..to).contains(&row.time_ms));
            mean(rows.map(|row| row.metrics[self.metric]))
        };
        let (before, worst) = (during(start - 2 * HOUR_MS, start), during(peak, relief));
        (before.is_finite() && worst.is_finite()).then_some((before, worst))
    }
}

#[test]
fn incidents_are_labelled_and_show_in_the_metrics_they_name() {
    let spec = FleetSpec { incidents_per_server_week: 1.5, ..calm(30, 14, 60) };
    let (_, labels, report) = ndjson(&spec);
    let labels = told(&labels);
    assert_eq!(labels.len() as u64, report.n_incidents + report.n_cascaded);
    let rate = report.n_incidents as f64 / (30.0 * 2.0);
    assert!((rate - 1.5).abs() < 0.5, "{rate} a server-week");
    assert!(report.n_cascaded > 5, "{report:?}");
    let seen = watch(&spec);
    let is_shown = |label: &Told| {
        let (before, worst) = label.before_and_at_worst(&seen[&label.server])?;
        let is_starved = label.kind == "upstream_starvation";
        Some(if is_starved { worst < 0.9 * before } else { worst > 1.05 * before + 0.5 })
    };
    let shown: Vec<bool> = labels.iter().filter_map(is_shown).collect();
    let n_shown = shown.iter().filter(|is_shown| **is_shown).count();
    assert!(n_shown * 10 >= shown.len() * 9, "{n_shown} of {} incidents are seen", shown.len());
    let kinds: HashSet<&str> = labels.iter().map(|label| label.kind.as_str()).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

#[test]
fn no_issue_is_critical_without_a_label() {
    let spec = FleetSpec { incidents_per_server_week: 1.5, ..calm(30, 14, 300) };
    let labels = told(&ndjson(&spec).1);
    let mut n_critical = 0;
    for (server, rows) in watch(&spec) {
        for row in rows.iter().filter(|row| row.status == Status::CriticalIssue) {
            n_critical += 1;
            let covers = |label: &Told| {
                let [start, .., end] = label.times_ms;
                label.server == server && (start..=end).contains(&row.time_ms)
            };
            assert!(labels.iter().any(covers), "{server} at {}", row.time_ms);
        }
    }
    assert!(n_critical > 50, "{n_critical}");
}

#[test]
fn faults_are_as_frequent_as_asked_and_add_up() {
    let spec = FleetSpec { missing_rate: 0.04, late_rate: 0.05, duplicate_rate: 0.03, ..calm(40, 2, 60) };
    let (rows, _, report) = ndjson(&spec);
    let n_expected = spec.n_ticks() * 40;
    let near = |n: u64, rate: f64| (n as f64 / n_expected as f64 / rate - 1.0).abs() < 0.2;
    assert!(
        near(report.n_missing, 0.04) && near(report.n_late, 0.05) && near(report.n_duplicate, 0.03),
        "{report:?}"
    );
    assert_eq!(report.n_rows, n_expected - report.n_offline - report.n_missing + report.n_duplicate);
    let distinct: HashSet<&str> = rows.lines().collect();
    assert_eq!(rows.lines().count() - distinct.len(), report.n_duplicate as usize);
    // ISO times compare as text: a row that comes after one of a later time is late (or a repeat of one).
    let mut newest = "";
    let mut n_behind = 0;
    for line in rows.lines() {
        let stamp = &line[14..34];
        n_behind += u64::from(stamp < newest);
        newest = newest.max(stamp);
    }
    assert!(
        n_behind >= report.n_late * 9 / 10 && n_behind <= report.n_late + report.n_duplicate,
        "{n_behind}"
    );
}

#[test]
fn rows_under_way_are_all_that_grows_and_only_with_the_fleet() {
    let held = |days| {
        let spec = FleetSpec { late_rate: 0.05, duplicate_rate: 0.05, ..calm(30, days, 300) };
        Fleet::new(&spec).unwrap().for_each_row(|_| Ok(())).unwrap().n_held_most
    };
    let (short, long) = (held(3), held(30));
    assert!(long < 2 * short, "{short} rows under way in 3 days, {long} in 30");
}

#[test]
fn a_server_that_is_down_is_absent_or_told_so() {
    let sparse = FleetSpec { incidents_per_server_week: 8.0, ..calm(21, 7, 300) };
    let dense = FleetSpec { offline_rows: OfflineRows::Dense, ..sparse.clone() };
    let (_, _, without) = ndjson(&sparse);
    let (rows, _, with) = ndjson(&dense);
    assert!(without.n_offline > 20 && without.n_offline == with.n_offline);
    assert_eq!(with.n_rows, without.n_rows + without.n_offline);
    assert_eq!(with.n_rows, dense.n_ticks() * 21);
    let offline: Vec<&str> = rows.lines().filter(|line| line.contains("\"offline\"")).collect();
    assert_eq!(offline.len() as u64, with.n_offline);
    assert!(offline.iter().all(|line| line.contains("\"cpu_idle_pct\":0.00")));
}

#[test]
fn clocks_units_and_names_go_wrong_on_request_only() {
    let plain = calm(20, 3, 600);
    let odd = FleetSpec {
        skewed_share: 0.3,
        unit_error_rate: 0.2,
        replaced_share: 0.3,
        newcomer_share: 0.3,
        ..plain.clone()
    };
    let (plain, odd) = (watch(&plain), watch(&odd));
    assert_eq!(plain.len(), 20);
    assert!(plain.keys().all(|name| !name.ends_with('b')));
    assert!(odd.keys().any(|name| name.ends_with('b')), "someone is replaced");
    let starts_late = |rows: &Vec<Seen>| rows[0].time_ms > time("2024-03-04T01:00:00Z").timestamp_millis();
    assert!(odd.iter().any(|(name, rows)| !name.ends_with('b') && starts_late(rows)), "someone is new");
    let is_skewed = |rows: &&Vec<Seen>| rows[0].time_ms % 600_000 != 0;
    assert_eq!(plain.values().filter(is_skewed).count(), 0);
    assert!((2..14).contains(&odd.values().filter(is_skewed).count()));
    let highest = |rows: &Vec<Seen>| rows.iter().map(|row| row.metrics[8]).fold(0.0, f64::max);
    assert!(plain.values().map(highest).fold(0.0, f64::max) < 1500.0);
    assert!(odd.values().map(highest).fold(0.0, f64::max) > 3000.0);
}

#[test]
fn a_fleet_in_any_zone_and_year_can_be() {
    for (zone, start) in [
        (chrono_tz::Australia::Lord_Howe, "2024-10-05T12:00:00Z"),
        (chrono_tz::America::Santiago, "2024-09-07T12:00:00Z"),
        (Tz::UTC, "1970-01-01T00:00:00Z"),
        (chrono_tz::Asia::Kathmandu, "2199-12-25T00:00:00Z"),
    ] {
        let start = time(start);
        let spec =
            FleetSpec { zone, start, end: start + Duration::days(2), tick_secs: 3600, ..calm(14, 1, 60) };
        let report = Fleet::new(&spec).unwrap().for_each_row(|_| Ok(())).unwrap();
        assert_eq!(report.n_rows + report.n_offline, 48 * 14, "{zone}");
    }
}
