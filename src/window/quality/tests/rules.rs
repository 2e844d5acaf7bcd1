//! Rules on days, servers and metrics.

use super::*;

const NAN: f32 = f32::NAN;

#[test]
fn healthy_servers_are_good_and_nobody_speaks() {
    assert_silent(&Sample::new(3, 30).examine(healthy));
}

#[test]
fn a_hole_of_the_fleet_is_one_line_and_no_fault_of_its_servers_or_days() {
    let sample = Sample::new(12, 10);
    let hole = 4 * DAY + 100..5 * DAY + 100;
    let report = sample.examine(|s, m, step| if hole.contains(&step) { NAN } else { healthy(s, m, step) });
    assert_eq!(report.findings.len(), 1, "{:#?}", told(&report));
    let message = "12 of 12 servers have no rows from 2024-01-05 08:20 to 2024-01-06 08:20 (24.0 h)";
    assert_told(&report, "window", "fleet_gap", message);
    assert!(report.days[4].completeness < 0.4 && report.days[4].completeness_outside_gaps == Some(1.0));
    assert_eq!(report.n_with(Verdict::Good), 12);
    // A gap that samples bridge is none; nor is one in which more than a tenth of the fleet reports.
    assert_silent(&sample.examine(
        |s, m, step| {
            if (100..106).contains(&step) { NAN } else { healthy(s, m, step) }
        },
    ));
    let report =
        sample.examine(|s, m, step| if s > 1 && hole.contains(&step) { NAN } else { healthy(s, m, step) });
    assert!(report.fleet_gaps.is_empty());
    assert_told(&report, "servers", "long_gap", "10 of 12 servers have long gaps of their own (s002 24.0 h");
}

#[test]
fn many_holes_of_the_fleet_share_a_line() {
    let report = Sample::new(3, 10).examine(|s, m, step| {
        if (20..30 + step / DAY).contains(&(step % DAY)) { NAN } else { healthy(s, m, step) }
    });
    assert_eq!(report.fleet_gaps.len(), 10);
    let lines: Vec<_> = told(&report).into_iter().filter(|found| found.1 == "fleet_gap").collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[3].2.starts_with("7 more gaps of the whole fleet, 7.6 h together"), "{lines:?}");
}

#[test]
fn a_long_gap_of_one_server_is_told_and_a_short_one_is_not() {
    let sample = Sample::new(3, 10);
    let with_gap =
        |n_steps: usize| {
            sample.examine(move |s, m, step| {
                if s == 1 && (500..500 + n_steps).contains(&step) { NAN } else { healthy(s, m, step) }
            })
        };
    let report = with_gap(73);
    assert_told(&report, "s1", "long_gap", "server s1 has a gap of 6.1 h from 2024-01-02 17:40");
    assert_eq!(report.findings[0].servers, ["s1"]);
    assert_eq!((report.n_with(Verdict::Warn), report.n_with(Verdict::Good)), (1, 2));
    assert_silent(&with_gap(72));
}

#[test]
fn scattered_gaps_add_up_to_an_incomplete_server_and_then_to_one_left_out() {
    let sample = Sample::new(3, 10);
    let with_holes = |n_of_ten: usize| {
        sample.examine(move |s, m, step| {
            if s == 2 && step % 10 < n_of_ten && step % 10 > 0 { NAN } else { healthy(s, m, step) }
        })
    };
    assert_silent(&with_holes(2));
    assert_told(&with_holes(3), "s2", "incomplete", "server s2 has gaps: it holds 80 % of its steps");
    let report = with_holes(7);
    assert_told(
        &report,
        "s2",
        "excluded",
        "server s2 is left out: 40 % of its steps are there, 50 % are needed",
    );
    assert_eq!(report.servers[2].verdict, Verdict::Excluded);
    assert_eq!(report.worst_first()[0].name, "s2");
}

#[test]
fn an_incomplete_day_is_told_by_its_true_length() {
    let mut sample = Sample::new(3, 4);
    sample.config.timezone = chrono_tz::America::New_York;
    sample.first = date("2026-03-06");
    // The 8th has 23 hours, and the step of midnight of the 9th is three days less an hour after the first.
    let report = sample.examine(healthy);
    assert_silent(&report);
    assert_eq!(report.days.iter().map(|day| day.n_steps).collect::<Vec<_>>(), [288, 288, 276, 288]);
    let scattered = |n: usize| {
        move |s: usize, m: usize, step: usize| {
            let is_lost = (2 * DAY..2 * DAY + 276).contains(&step) && (step + s) % 20 < n;
            if is_lost { NAN } else { healthy(s, m, step) }
        }
    };
    assert_silent(&sample.examine(scattered(1)));
    let report = sample.examine(scattered(3));
    assert_told(&report, "2026-03-08", "day_completeness", "2026-03-08 holds 8");
}

#[test]
fn rows_that_repeat_are_told_from_a_hundredth_on() {
    let with = |n_source_rows: u64| {
        Sample { n_source_rows: Some(n_source_rows), ..Sample::new(2, 3) }.examine(healthy)
    };
    assert_silent(&with(10_100));
    let report = with(10_200);
    assert_told(
        &report,
        "2024-01-01",
        "duplicates",
        "holds 2.0 % rows that repeat a server and time, of 10200",
    );
    assert_eq!(report.days[0].n_duplicates, 200);
}

#[test]
fn a_feed_at_another_rate_is_told() {
    let with = |n_rows_a_step: u64| Sample { n_rows_a_step, ..Sample::new(2, 3) }.examine(healthy);
    assert_silent(&with(49));
    assert_told(&with(5), "servers", "row_rate", "2 of 2 servers send at another rate");
    assert_told(&with(120), "servers", "row_rate", "120.0 rows a step");
}

#[test]
fn a_clock_that_is_off_shows_in_where_the_fleets_hole_lies() {
    let sample = Sample::new(12, 6);
    let hole_of = |offset: usize, n_steps: usize| {
        sample.examine(move |s, m, step| {
            let hole = if s == 3 { 500 + offset..500 + offset + n_steps } else { 500..536 };
            if hole.contains(&step) { NAN } else { healthy(s, m, step) }
        })
    };
    let report = hole_of(12, 36);
    assert_told(&report, "s003", "clock_skew", "server s003 has another clock than the fleet: 60 min ahead");
    assert_eq!((report.servers[3].clock_offset_secs, report.findings.len()), (Some(3600), 2));
    for (offset, n_steps) in [(0, 36), (1, 36), (1, 35), (12, 20)] {
        let report = hole_of(offset, n_steps);
        assert_eq!(report.servers[3].clock_offset_secs, None, "{offset} {n_steps}");
    }
}

#[test]
fn new_and_silent_servers_are_told_after_a_day() {
    let sample = Sample::new(3, 10);
    let report = sample.examine(|s, m, step| {
        let life = [0..10 * DAY, 4 * DAY..10 * DAY, 0..7 * DAY][s].clone();
        if life.contains(&step) { healthy(s, m, step) } else { NAN }
    });
    assert_told(&report, "s1", "new", "server s1 is new since 2024-01-05 00:00");
    assert_told(&report, "s2", "vanished", "server s2 is silent since 2024-01-07 23:55");
    assert_silent(&sample.examine(|s, m, step| {
        let life = [0..10 * DAY, DAY..10 * DAY, 0..9 * DAY + 1][s].clone();
        if life.contains(&step) { healthy(s, m, step) } else { NAN }
    }));
}

#[test]
fn a_metric_that_stops_or_begins_is_told_after_a_day_and_stops_a_run_if_it_is_a_target_of_the_fleet() {
    let sample = Sample::new(4, 10);
    let with = |metric: usize, n_servers: usize, steps: std::ops::Range<usize>| {
        sample.examine(move |s, m, step| {
            if m == metric && s < n_servers && steps.contains(&step) { NAN } else { healthy(s, m, step) }
        })
    };
    let report = with(1, 2, 8 * DAY..10 * DAY);
    let message = "mem has stopped on 2 of 4 servers (s0 since 2024-01-09 00:00; s1 since";
    assert_told(&report, "mem", "metric_vanished", message);
    assert_eq!(report.findings[0].severity, Severity::Hard);
    assert_eq!(report.hard_reasons().len(), 1);
    let report = with(1, 1, 8 * DAY..10 * DAY);
    assert_eq!(report.findings[0].severity, Severity::Soft, "one of four");
    let report = with(2, 4, 8 * DAY..10 * DAY);
    assert_eq!(report.findings[0].severity, Severity::Soft, "no target");
    assert_told(&with(2, 4, 0..2 * DAY), "net", "metric_appeared", "net is new on 4 of 4 servers");
    assert_silent(&with(1, 4, 9 * DAY + 1..10 * DAY));
    assert_silent(&with(1, 4, 4 * DAY..8 * DAY));
    let mut tolerant = Sample::new(4, 10);
    tolerant.config.quality.stop_on.clear();
    let report =
        tolerant.examine(|s, m, step| if m == 1 && step >= 8 * DAY { NAN } else { healthy(s, m, step) });
    assert!(report.hard_reasons().is_empty());
}

#[test]
fn sparse_and_empty_columns_are_told_apart_from_holes_of_the_server() {
    let sample = Sample::new(3, 6);
    let every = |n: usize| {
        sample.examine(
            move |s, m, step| {
                if m == 1 && s == 0 && step % n != 0 { NAN } else { healthy(s, m, step) }
            },
        )
    };
    assert_silent(&every(2));
    assert_told(&every(4), "mem", "sparse", "mem is sparse on 1 of 3 servers (s0 in 25 % of its steps)");
    let report = sample.examine(|s, m, step| if m == 1 && s < 2 { NAN } else { healthy(s, m, step) });
    assert_told(&report, "mem", "never_observed", "mem has no values on 2 of 3 servers (s0; s1)");
    let report = sample.examine(|s, m, step| if m == 2 && s < 2 { NAN } else { healthy(s, m, step) });
    assert_eq!(told(&report), [], "idle, and no target");
}

#[test]
fn a_sensor_that_is_stuck_is_told_from_an_idle_and_from_a_slow_one() {
    let sample = Sample::new(3, 6);
    let stuck = |n_steps: usize, value: f32| {
        sample.examine(move |s, m, step| {
            if m == 0 && s == 1 && (600..600 + n_steps).contains(&step) { value } else { healthy(s, m, step) }
        })
    };
    let message = "cpu is stuck on 1 of 3 servers (s1 at 41.5 for 25 h from 2024-01-03 02:00)";
    assert_told(&stuck(300, 41.5), "cpu", "stuck", message);
    assert_silent(&stuck(287, 41.5));
    assert_silent(&stuck(300, 0.0));
    let slow = sample.examine(|s, m, step| match (m, step) {
        (2, 0..900) => 500.0,
        (2, _) => 500.0 + ((step - 900) / 3) as f32,
        _ => healthy(s, m, step),
    });
    assert_eq!(told(&slow), []);
}

#[test]
fn values_outside_the_range_are_told_from_a_hundredth_on() {
    let sample = Sample::new(2, 6);
    let every = |n: usize| {
        sample.examine(
            move |s, m, step| {
                if m == 0 && s == 0 && step % n == 0 { 130.0 } else { healthy(s, m, step) }
            },
        )
    };
    assert_told(
        &every(50),
        "cpu",
        "out_of_range",
        "cpu leaves its range on 1 of 2 servers (s0 2.0 % of its values)",
    );
    assert_silent(&every(144));
}

#[test]
fn a_change_of_unit_is_told_in_both_directions_for_days_and_for_good() {
    let sample = Sample::new(2, 12);
    for (factor, sign) in
        [(100.0f32, "x100"), (1000.0, "x1000"), (1024.0, "x1024"), (1_048_576.0, "x1048576"), (8.0, "x8")]
    {
        for (days, n_days) in [(9..12, 3), (5..6, 1)] {
            let message = format!("s1 {sign} on {n_days} days from 2024-01-{:02}", days.start + 1);
            let report = sample.examine(|s, m, step| {
                let is_odd = m == 2 && s == 1 && days.contains(&(step / DAY));
                healthy(s, m, step) * if is_odd { factor } else { 1.0 }
            });
            assert_told(&report, "net", "unit_jump", &message);
            let report = sample.examine(|s, m, step| {
                let is_odd = m == 2 && s == 1 && days.contains(&(step / DAY));
                healthy(s, m, step) / if is_odd { factor } else { 1.0 }
            });
            assert_told(&report, "net", "unit_jump", &message.replace('x', "/"));
        }
    }
}

#[test]
fn more_work_is_no_other_unit() {
    let sample = Sample::new(2, 12);
    let factor = |days: std::ops::Range<usize>, work: fn(f32) -> f32| {
        sample.examine(move |s, m, step| {
            let value = healthy(s, m, step);
            if m == 2 && s == 1 && days.contains(&(step / DAY)) { work(value) } else { value }
        })
    };
    let no_jump = |report: &QualityReport| !told(report).iter().any(|found| found.1 == "unit_jump");
    assert!(no_jump(&factor(9..12, |value| 3.0 * value)));
    assert!(no_jump(&factor(9..12, |value| 50.0 * value)), "no factor between units");
    // A hundred times as much in the middle, but not in the quiet hours.
    assert!(no_jump(&factor(9..12, |value| if value < 38.0 { 5.0 * value } else { 100.0 * value })));
    // Part of a day is an incident.
    let report = sample.examine(|s, m, step| {
        let is_odd = m == 2 && s == 1 && (1000..1100).contains(&step);
        healthy(s, m, step) * if is_odd { 100.0 } else { 1.0 }
    });
    assert!(no_jump(&report));
}

#[test]
fn a_target_of_the_fleet_in_another_unit_stops_the_run() {
    let report = Sample::new(2, 12).examine(|s, m, step| {
        let value = healthy(s, m, step);
        if m == 0 && step < 9 * DAY { value / 100.0 } else { value }
    });
    assert_eq!(report.findings[0].severity, Severity::Hard);
    assert_told(
        &report,
        "cpu",
        "unit_jump",
        "cpu seems to come in another unit on 2 of 2 servers (s0 x100 on 3 days",
    );
}

#[test]
fn a_resized_server_is_told_from_one_that_was_off_and_from_a_busy_one() {
    let sample = Sample::new(2, 8);
    let net = |value: fn(usize) -> f32| {
        sample.examine(move |s, m, step| if m == 2 && s == 0 { value(step) } else { healthy(s, m, step) })
    };
    let report = net(|step| if step < 4 * DAY { 2.0 } else { 4.0 });
    assert_told(
        &report,
        "net",
        "resized",
        "net changes size on 1 of 2 servers (s0 2 -> 4 at 2024-01-05 00:00)",
    );
    let report = net(|step| match step / DAY {
        0..2 => 8.0,
        2..5 => 4.0,
        _ => 16.0,
    });
    assert_told(&report, "net", "resized", "4 -> 16 at 2024-01-06 00:00, 2 times in all");
    assert_silent(&net(|step| if (700..1300).contains(&step) { 0.0 } else { 4.0 }));
    assert_silent(&net(|step| if step < 4 * DAY { 4.0 } else { 4.2 }));
    assert_silent(&net(|step| if step < 8 * DAY - 287 { 4.0 } else { 8.0 }));
    assert_silent(&net(
        |step| if step < 4 * DAY { 4.0 + noise(0, 2, step) } else { 8.0 + noise(0, 2, step) },
    ));
}

#[test]
fn a_fleet_of_a_thousand_reads_as_quickly_as_one_of_ten() {
    let sample = Sample::new(1000, 3);
    let report = sample.examine(|s, m, step| {
        let is_lost = (s % 3 == 0 && step < DAY + 20) || (s % 5 == 0 && step % 3 > 0);
        let value = if m == 2 && s % 7 == 0 { 3.0 } else { healthy(s, m, step) };
        if is_lost {
            NAN
        } else if m == 1 && s % 11 == 0 {
            value + 80.0
        } else {
            value
        }
    });
    assert!(report.findings.len() <= 8, "{:#?}", told(&report));
    assert!(report.findings.iter().all(|finding| finding.message.len() < 300), "{:#?}", told(&report));
    let excluded = report.findings.iter().find(|finding| finding.rule == "excluded").unwrap();
    assert_eq!(excluded.servers.len(), report.n_with(Verdict::Excluded));
}

#[test]
fn the_report_does_not_depend_on_how_many_servers_are_looked_at_at_once() {
    let sample = Sample::new(5, 6);
    let end = date("2024-01-07");
    let span = Span::of_days(sample.first, end, sample.config.timezone, 300);
    let grid_of = |servers: std::ops::Range<usize>| Grid {
        servers: servers
            .clone()
            .map(|s| Server { name: format!("s{s}"), profile: "generic".into() })
            .collect(),
        metrics: vec!["cpu".into(), "mem".into(), "net".into()],
        statuses: Vec::new(),
        start_ms: span.start_ms,
        step_secs: 300,
        n_steps: span.n_steps,
        values: servers
            .clone()
            .flat_map(|s| (0..span.n_steps).flat_map(move |step| (0..3).map(move |m| (s, m, step))))
            .map(
                |(s, m, step)| {
                    if (s * 100..s * 100 + 80).contains(&step) { NAN } else { healthy(s, m, step) }
                },
            )
            .collect(),
        status: vec![0; servers.len() * span.n_steps],
    };
    let whole = grid_of(0..5);
    let cast = Cast {
        servers: whole.servers.clone(),
        statuses: Vec::new(),
        days: vec![DayCount { date: sample.first, n_entries: 0, n_raw_rows: 99_999, n_source_rows: 99_999 }],
        row_counts: vec![RowCount { n_rows: 60, n_steps: 1 }; 5],
    };
    let asked = Asked { first_day: sample.first, end_day: end };
    let plan = plan_split(span.n_steps, 12, 4, 72);
    let report = |parts: &[std::ops::Range<usize>]| {
        let mut examination = Examination::new(&whole, &cast, asked, plan.as_ref(), &sample.config);
        for part in parts {
            examination.add(&grid_of(part.clone()));
        }
        examination.finish(&whole)
    };
    let at_once = report(std::slice::from_ref(&(0..5)));
    assert!(!at_once.findings.is_empty());
    assert_eq!(report(&[0..1, 1..4, 4..5]), at_once);
}
