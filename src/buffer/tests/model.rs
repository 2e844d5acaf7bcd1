//! Random rows, appends and rotations against a map: what is read equals the map at every point.

use proptest::prelude::*;

use super::*;

const SERVERS: [&str; 3] = ["a", "b", "c"];
const DAY_SECS: i64 = 86_400;

#[derive(Clone, Debug)]
enum Act {
    /// Server, second since the first day, value.
    Append(Vec<(usize, i64, i16)>),
    Rotate {
        include_open: bool,
    },
    Repair,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    // Few seconds of few days, so that keys repeat and rows are late.
    let second = (0..3i64, 0..6i64, prop::bool::ANY).prop_map(|(day, second, is_at_end)| {
        let of_day = if is_at_end { DAY_SECS - 1 - second } else { second };
        day * DAY_SECS + of_day
    });
    let rows = prop::collection::vec((0..SERVERS.len(), second, any::<i16>()), 1..12);
    let act = prop_oneof![
        4 => rows.prop_map(Act::Append),
        2 => any::<bool>().prop_map(|include_open| Act::Rotate { include_open }),
        1 => Just(Act::Repair),
    ];
    prop::collection::vec(act, 1..8)
}

/// Every row of the buffer, day by day, as readers find them.
fn read_all(bench: &Bench) -> BTreeMap<(String, i64), f32> {
    let buffer = bench.buffer();
    let mut found = BTreeMap::new();
    for day in buffer.days().unwrap() {
        let inputs = buffer.sources_of(day.date).unwrap().inputs();
        let metrics = buffer.metric_names();
        let survey = merge::Survey::of(&inputs, &metrics).unwrap();
        merge::for_each_sorted(&inputs, &survey, &metrics, &mut |sorted| {
            for idx in &sorted.order {
                let row = sorted.rows.row(*idx as usize);
                let before = found.insert((row.server.to_owned(), row.time_ms), row.values[0]);
                assert_eq!(before, None, "a key twice");
            }
            Ok(())
        })
        .unwrap();
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_written_last(acts in acts(), zone in 0..3usize) {
        let mut bench = Bench::new(&["cpu"], "2024-01-03T23:59:59Z");
        bench.config.timezone = [Tz::UTC, Tz::America__New_York, Tz::Asia__Kolkata][zone];
        let mut model = BTreeMap::new();
        for act in acts {
            match &act {
                Act::Append(rows) => {
                    let mut text = String::new();
                    for (server, second, value) in rows {
                        let time_ms = 1_704_067_200_000 + 1000 * second;
                        let server = SERVERS[*server];
                        text += &format!("{{\"timestamp\":{time_ms},\"server_name\":\"{server}\",\"cpu\":{value}}}\n");
                        model.insert((server.to_owned(), time_ms), f32::from(*value));
                    }
                    prop_assert_eq!(bench.append(&text).n_good, rows.len() as u64);
                }
                Act::Rotate { include_open } => {
                    let options = RotateOptions { include_open: *include_open, dry_run: false };
                    let report = bench.buffer().rotate(&options, bench.now, &Silent).unwrap();
                    prop_assert_eq!(report.failed, vec![]);
                }
                Act::Repair => {
                    let report = bench.buffer().repair(&RepairOptions::default(), bench.now, &Silent).unwrap();
                    prop_assert_eq!((report.mended.len(), report.failed.len()), (0, 0));
                }
            }
            prop_assert_eq!(&read_all(&bench), &model, "after {:?}", act);
        }
    }
}
