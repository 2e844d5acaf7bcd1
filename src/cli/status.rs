//! `status`: one screen.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use super::context::Context;
use super::text;
use crate::buffer::{Buffer, Trouble};
use crate::error::Exit;
use crate::nightly::state::{Night, earlier_nights};
use crate::registry::{Champion, Registry};
use crate::report::{read_records, render_line};
use crate::site::Site;

/// What one looks at first.
#[derive(Serialize)]
struct Status {
    site: std::path::PathBuf,
    now: DateTime<Utc>,
    logical_date: NaiveDate,
    champion: Option<Champion>,
    n_models: usize,
    /// Hours from the newest row to now.
    data_age_hours: Option<f64>,
    n_days: usize,
    n_rows: u64,
    buffer_bytes: u64,
    newest_day: Option<NaiveDate>,
    n_quarantined: u64,
    /// What is wrong with the rows of the buffer, as far as names, footers and segments tell.
    troubles: Vec<Trouble>,
    last_night: Option<LastNight>,
    /// Nights in a row, up to the last, that ended without a promotion.
    n_nights_without_promotion: usize,
    next_night: DateTime<Utc>,
}

#[derive(Serialize)]
struct LastNight {
    logical_date: NaiveDate,
    exit_code: Option<u8>,
    summary: String,
}

pub fn run(context: &Context) -> anyhow::Result<Exit> {
    let site = context.site()?;
    let now = context.clock(site.zone())?.now();
    let status = look(&site, now)?;
    context.output.result(&status, render)?;
    Ok(Exit::Done)
}

fn look(site: &Site, now: DateTime<Utc>) -> anyhow::Result<Status> {
    let registry = Registry::open(site);
    let buffer = Buffer::open(site);
    let held = buffer.status(now)?;
    let today = site.logical_date(now);
    let tomorrow = today.succ_opt().unwrap_or(today);
    let now_ms = now.timestamp_millis();
    let newest_ms = match buffer.newest_time_ms(now_ms) {
        // What cannot be read is told below, with what helps.
        Err(_) if held.n_unreadable > 0 => None,
        newest_ms => newest_ms?,
    };
    let nights = earlier_nights(site, tomorrow, 60)?.nights;
    let newest_day = held.days.iter().map(|day| day.date).filter(|date| *date <= today).max();
    Ok(Status {
        site: site.root.clone(),
        now,
        logical_date: today,
        champion: registry.pointer()?,
        n_models: registry.ids()?.len(),
        data_age_hours: newest_ms.map(|newest_ms| (now_ms - newest_ms) as f64 / 3_600_000.0),
        n_days: held.days.len(),
        n_rows: held.n_rows,
        buffer_bytes: held.size_bytes,
        newest_day,
        n_quarantined: held.quarantine.n_rows,
        troubles: held.troubles,
        last_night: nights.first().map(|night| last_night(site, night)).transpose()?,
        n_nights_without_promotion: nights.iter().take_while(|night| !night.has_promoted()).count(),
        next_night: next_night(site, now)?,
    })
}

/// The newest night: its record if it came to one, else that it is under way or was killed.
fn last_night(site: &Site, night: &Night) -> anyhow::Result<LastNight> {
    let records = read_records(&site.log_dir())?;
    let record = records.iter().find(|record| record.logical_date == night.logical_date);
    let unfinished = || {
        format!(
            "{} not finished after {}",
            night.logical_date,
            text::plural(night.n_attempts.into(), "start")
        )
    };
    Ok(LastNight {
        logical_date: night.logical_date,
        exit_code: record.map(|record| record.exit_code),
        summary: record.map_or_else(unfinished, render_line),
    })
}

/// The next time `training_time` comes round in the site's zone.
fn next_night(site: &Site, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    let time = site.config.training_time()?;
    let at = |date: NaiveDate| {
        let text = format!("{date}T{}", time.format("%H:%M"));
        // A time that daylight saving skips comes at the end of the gap.
        crate::clock::parse_time(&text, site.zone()).unwrap_or_else(|_| {
            crate::calendar::day_start(date, site.zone())
                + chrono::Duration::hours(i64::from(chrono::Timelike::hour(&time)))
        })
    };
    let today = site.logical_date(now);
    let tomorrow = today.succ_opt().unwrap_or(today);
    Ok(if at(today) > now { at(today) } else { at(tomorrow) })
}

fn render(status: &Status) -> String {
    let time = |time: &DateTime<Utc>| time.format("%Y-%m-%d %H:%MZ").to_string();
    let champion = match &status.champion {
        Some(champion) => {
            let age = (status.now - champion.promoted_at).num_minutes() as f64 / 60.0;
            format!("{}, in service since {} ({age:.1} h)", champion.model_id, time(&champion.promoted_at))
        }
        None => "none yet".into(),
    };
    let data = match status.data_age_hours {
        Some(age) => format!("newest rows {age:.1} h old"),
        None if status.n_rows > 0 => "age unknown".into(),
        None => "no rows yet".into(),
    };
    let night = match &status.last_night {
        Some(night) => night.summary.clone(),
        None => "none yet".into(),
    };
    let lines = [
        ("site", status.site.display().to_string()),
        ("now", format!("{} (logical date {})", time(&status.now), status.logical_date)),
        ("champion", champion),
        ("models", status.n_models.to_string()),
        ("data", data),
        (
            "buffer",
            format!(
                "{}, {}, {}; {} in quarantine",
                text::plural(status.n_days as u64, "day"),
                text::plural(status.n_rows, "row"),
                text::bytes(status.buffer_bytes),
                text::plural(status.n_quarantined, "bad row")
            ),
        ),
        ("last night", night),
        ("next night", time(&status.next_night)),
    ];
    let troubles = status.troubles.iter().map(|trouble| ("WARNING", trouble.warning()));
    lines.into_iter().chain(troubles).map(|(name, value)| format!("{name:<11} {value}\n")).collect()
}
