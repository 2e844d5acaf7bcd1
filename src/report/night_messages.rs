//! Who hears of a night: from its record and those before it to messages.
//!
//! | outcome | message |
//! |---|---|
//! | promoted, passed | info, or the recovery after nights that alerted |
//! | inconclusive | info; warning from the third in a row |
//! | worse, unfit | critical |
//! | not enough data | warning; critical from the second in a row |
//! | training (or another stage) failed | warning; critical from the second in a row |
//! | interrupted | warning |
//! | days of the buffer could not be sealed or read | critical besides |
//! | time ran out in mid-epoch, or training took over three hours | a warning besides |
//!
//! In a row means night after night in the records; a night that never ran has none (others watch for that).

use crate::config::NotifyConfig;
use crate::notify::{Fact, Message, Sender, Severity};

use super::NightOutcome::{self, *};
use super::{NightRecord, render_line};

const MAX_LINES: usize = 10;
const SLOW_MINUTES: f64 = 180.0;
const INCONCLUSIVE_NIGHTS: usize = 3;
const FAILED_NIGHTS: usize = 2;

/// The messages about the night of `record`, given `previous` records of any order.
///
/// Calm ones (a good night, a first inconclusive one) are left out where `notify.on_success` is off; a recovery
/// is always told.
pub fn messages_for(
    record: &NightRecord,
    previous: &[NightRecord],
    sender: &Sender,
    config: &NotifyConfig,
) -> Vec<Message> {
    let mut earlier: Vec<&NightRecord> =
        previous.iter().filter(|other| other.logical_date < record.logical_date).collect();
    earlier.sort_by_key(|other| std::cmp::Reverse(other.logical_date));
    let outcomes: Vec<NightOutcome> = earlier.iter().map(|other| other.outcome).collect();

    let (severity, kind, what) = verdict(record.outcome, &outcomes);
    let mut messages = Vec::new();
    if config.on_success || severity > Severity::Info || kind == "recovered" {
        messages.push(message(record, sender, severity, kind, &what));
    }
    messages.extend(buffer_message(record, sender));
    messages.extend(time_message(record, sender));
    messages
}

/// Severity, kind and subject of a night with this outcome after `earlier` ones, newest first.
fn verdict(outcome: NightOutcome, earlier: &[NightOutcome]) -> (Severity, &'static str, String) {
    use Severity::*;
    let in_a_row =
        |kinds: &[NightOutcome]| 1 + earlier.iter().take_while(|other| kinds.contains(other)).count();
    let from = |n_nights: usize, limit: usize, calm: Severity, loud: Severity| {
        if n_nights >= limit { loud } else { calm }
    };
    let counted = |words: &str, n_nights: usize| match n_nights {
        1 => words.to_owned(),
        _ => format!("{words}, night {n_nights} in a row"),
    };
    match outcome {
        Promoted | Passed => match nights_of_trouble(earlier) {
            0 => (Info, "night_passed", outcome.words().to_owned()),
            n => (Info, "recovered", format!("recovered after {n} night{}", if n == 1 { "" } else { "s" })),
        },
        Inconclusive => {
            let n = in_a_row(&[Inconclusive]);
            let words = counted("exam inconclusive, champion stays", n);
            (from(n, INCONCLUSIVE_NIGHTS, Info, Warning), "night_inconclusive", words)
        }
        Worse => (Critical, "validation_failed", "new model is worse, champion stays".to_owned()),
        Unfit => (Critical, "validation_failed", "new model is unfit, champion stays".to_owned()),
        NotEnoughData => {
            let n = in_a_row(&[NotEnoughData]);
            let words = counted("not enough or not good enough data, nothing trained", n);
            (from(n, FAILED_NIGHTS, Warning, Critical), "not_enough_data", words)
        }
        TrainingFailed | Failed => {
            let n = in_a_row(&[TrainingFailed, Failed]);
            let (kind, words) = match outcome {
                TrainingFailed => ("training_failed", "training failed"),
                _ => ("night_failed", "night failed"),
            };
            (from(n, FAILED_NIGHTS, Warning, Critical), kind, counted(words, n))
        }
        Interrupted => (Warning, "night_interrupted", "interrupted after a checkpoint".to_owned()),
    }
}

/// Nights since the last good one, if any of them alerted: a single inconclusive night did not.
fn nights_of_trouble(earlier: &[NightOutcome]) -> usize {
    let bad: Vec<&NightOutcome> = earlier.iter().take_while(|outcome| !outcome.is_success()).collect();
    let has_alerted = bad.iter().any(|outcome| **outcome != Inconclusive) || bad.len() >= INCONCLUSIVE_NIGHTS;
    if has_alerted { bad.len() } else { 0 }
}

/// Data at risk is told whatever the night brought: a model can be good while its next days rot.
fn buffer_message(record: &NightRecord, sender: &Sender) -> Option<Message> {
    let n_days = record.days_failed.len();
    if n_days == 0 {
        return None;
    }
    let words = format!("{n_days} day{} of the buffer failed", if n_days == 1 { "" } else { "s" });
    let mut message = message(record, sender, Severity::Critical, "buffer_damaged", &words);
    message.text.extend(some_of(&record.days_failed, "failed: "));
    message.text.push("`tftctl buffer verify` says what is wrong; their data is where it was".to_owned());
    Some(message)
}

fn time_message(record: &NightRecord, sender: &Sender) -> Option<Message> {
    let minutes = record.training_duration_mins;
    match record.partial_epoch {
        Some(share) => {
            let words = format!("time ran out after {:.0} % of an epoch", share * 100.0);
            Some(message(record, sender, Severity::Warning, "time_ran_out", &words))
        }
        None if minutes.is_some_and(|minutes| minutes > SLOW_MINUTES) => {
            let words = format!("training took {:.1} hours", minutes.unwrap_or_default() / 60.0);
            Some(message(record, sender, Severity::Warning, "training_slow", &words))
        }
        None => None,
    }
}

fn message(record: &NightRecord, sender: &Sender, severity: Severity, kind: &str, what: &str) -> Message {
    let mut message =
        Message::new(severity, kind, sender, format!("{} {}: {what}", sender.site, record.logical_date));
    message.text.push(render_line(record));
    message.text.extend(some_of(&record.warnings, "warning: "));
    message.logical_date = Some(record.logical_date);
    message.facts = facts(record);
    message
}

/// The first lines, and how many more there are.
fn some_of(lines: &[String], prefix: &str) -> Vec<String> {
    let mut some: Vec<String> = lines.iter().take(MAX_LINES).map(|line| format!("{prefix}{line}")).collect();
    if lines.len() > MAX_LINES {
        some.push(format!("and {} more", lines.len() - MAX_LINES));
    }
    some
}

fn facts(record: &NightRecord) -> Vec<Fact> {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.4}"));
    let hours = |value: Option<f64>| value.map(|value| format!("{value:.1} h"));
    let named = [
        ("exit code", Some(record.exit_code.to_string())),
        ("model", record.model_id.clone()),
        ("in service", record.champion_id.clone()),
        ("loss", number(record.validation_loss)),
        ("champion's loss", number(record.champion_loss)),
        ("loss ratio", number(record.loss_ratio)),
        ("persistence loss", number(record.persistence_loss)),
        ("seasonal naive loss", number(record.seasonal_naive_loss)),
        ("P10-P90 coverage", record.coverage.map(|coverage| format!("{coverage:.3}"))),
        ("total epochs", record.total_epochs.map(|epochs| epochs.to_string())),
        ("training", record.training_duration_mins.map(|minutes| format!("{minutes:.1} min"))),
        ("rows", record.data_samples.map(|rows| rows.to_string())),
        ("data age", hours(record.data_age_hours)),
        ("promotion age", hours(record.promotion_age_hours)),
        ("window", record.window_id.clone()),
    ];
    let fact = |(name, value): (&str, Option<String>)| Some(Fact { name: name.to_owned(), value: value? });
    named.into_iter().filter_map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(day: u32, outcome: NightOutcome) -> NightRecord {
        let date = chrono::NaiveDate::from_ymd_opt(2026, 6, day).unwrap();
        NightRecord::new(date, outcome, date.and_hms_opt(3, 0, 0).unwrap().and_utc())
    }

    fn sender() -> Sender {
        Sender { site: "fleet".into(), host: "ops1".into() }
    }

    /// The messages of the last of `outcomes`, one night after the other.
    fn told(outcomes: &[NightOutcome], config: &NotifyConfig) -> Vec<(Severity, String, String)> {
        let mut records: Vec<NightRecord> =
            outcomes.iter().enumerate().map(|(i, outcome)| record(i as u32 + 1, *outcome)).collect();
        let last = records.pop().unwrap();
        records.reverse();
        messages_for(&last, &records, &sender(), config)
            .into_iter()
            .map(|message| (message.severity, message.kind, message.subject))
            .collect()
    }

    #[track_caller]
    fn case(outcomes: &[NightOutcome], severity: Severity, kind: &str, words: &str) {
        let got = told(outcomes, &NotifyConfig::default());
        assert_eq!(got.len(), 1, "{got:?}");
        assert_eq!((got[0].0, got[0].1.as_str()), (severity, kind));
        assert!(got[0].2.contains(words), "{:?} should contain {words:?}", got[0].2);
    }

    #[test]
    fn outcomes_are_told_as_the_table_says() {
        use Severity::*;
        let maybe = NightOutcome::Inconclusive;
        case(&[Promoted], Info, "night_passed", "fleet 2026-06-01: promoted");
        case(&[Promoted, Passed], Info, "night_passed", "not promoted");
        case(&[Promoted, maybe], Info, "night_inconclusive", "champion stays");
        case(&[maybe, maybe, maybe], Warning, "night_inconclusive", "night 3 in a row");
        case(&[maybe, maybe, Promoted, maybe], Info, "night_inconclusive", "inconclusive");
        case(&[Worse], Critical, "validation_failed", "worse");
        case(&[Unfit], Critical, "validation_failed", "unfit");
        case(&[Promoted, NotEnoughData], Warning, "not_enough_data", "nothing trained");
        case(&[NotEnoughData, NotEnoughData], Critical, "not_enough_data", "night 2 in a row");
        case(&[Promoted, TrainingFailed], Warning, "training_failed", "training failed");
        case(&[TrainingFailed, TrainingFailed], Critical, "training_failed", "night 2 in a row");
        case(&[Failed, TrainingFailed], Critical, "training_failed", "night 2 in a row");
        case(&[TrainingFailed, Promoted, TrainingFailed], Warning, "training_failed", "failed");
        case(&[NotEnoughData, TrainingFailed], Warning, "training_failed", "failed");
        case(&[Failed], Warning, "night_failed", "night failed");
        case(&[Interrupted], Warning, "night_interrupted", "checkpoint");
    }

    #[test]
    fn the_first_good_night_after_trouble_is_a_recovery() {
        let maybe = NightOutcome::Inconclusive;
        case(&[TrainingFailed, TrainingFailed, Promoted], Severity::Info, "recovered", "after 2 nights");
        case(&[Worse, maybe, Promoted], Severity::Info, "recovered", "after 2 nights");
        case(&[NotEnoughData, Promoted], Severity::Info, "recovered", "after 1 night");
        case(&[maybe, maybe, maybe, Promoted], Severity::Info, "recovered", "after 3 nights");
        case(&[maybe, Promoted], Severity::Info, "night_passed", "promoted");
        case(&[TrainingFailed, Promoted, Promoted], Severity::Info, "night_passed", "promoted");
    }

    #[test]
    fn calm_messages_can_be_switched_off_but_no_recovery() {
        let quiet = NotifyConfig { on_success: false, ..NotifyConfig::default() };
        assert_eq!(told(&[Promoted], &quiet).len(), 0);
        assert_eq!(told(&[NightOutcome::Inconclusive], &quiet).len(), 0);
        assert_eq!(told(&[Worse], &quiet).len(), 1);
        assert_eq!(told(&[Worse, Promoted], &quiet)[0].1, "recovered");
    }

    #[test]
    fn a_night_without_time_is_a_warning_besides() {
        let kinds = |record: NightRecord| -> Vec<String> {
            let messages = messages_for(&record, &[], &sender(), &NotifyConfig::default());
            messages.into_iter().map(|message| message.kind).collect()
        };
        let slow = NightRecord { training_duration_mins: Some(200.0), ..record(1, Promoted) };
        assert_eq!(kinds(slow.clone()), ["night_passed", "training_slow"]);
        assert_eq!(kinds(NightRecord { partial_epoch: Some(0.4), ..slow }), ["night_passed", "time_ran_out"]);
    }

    #[test]
    fn damaged_days_are_critical_whatever_the_night_brought() {
        let damaged = NightRecord { days_failed: vec!["2026-05-31 seal: no".into()], ..record(1, Promoted) };
        let quiet = NotifyConfig { on_success: false, ..NotifyConfig::default() };
        let messages = messages_for(&damaged, &[], &sender(), &quiet);
        let [told] = messages.as_slice() else { panic!("one message, not {messages:?}") };
        assert_eq!((told.severity, told.kind.as_str()), (Severity::Critical, "buffer_damaged"));
        assert_eq!(told.subject, "fleet 2026-06-01: 1 day of the buffer failed");
        assert!(told.text.contains(&"failed: 2026-05-31 seal: no".to_owned()), "{:?}", told.text);
    }

    #[test]
    fn a_message_reads_like_this() {
        let record = NightRecord {
            model_id: Some("tft_model_20260601_020009".into()),
            champion_id: Some("tft_model_20260531_020007".into()),
            validation_loss: Some(0.31),
            champion_loss: Some(0.22),
            loss_ratio: Some(1.409),
            data_age_hours: Some(3.0),
            reasons: vec!["loss ratio 1.409 exceeds 1.2".into()],
            warnings: (0..12).map(|i| format!("server web{i} is silent")).collect(),
            ..record(1, Unfit)
        };
        let messages = messages_for(&record, &[], &sender(), &NotifyConfig::default());
        let warnings: String = (0..10).map(|i| format!("warning: server web{i} is silent\n")).collect();
        let expected = format!(
            "[critical] fleet 2026-06-01: new model is unfit, champion stays\n\
             2026-06-01 refused as unfit tft_model_20260601_020009: loss ratio 1.409 exceeds 1.2; \
             loss 0.3100 (champion 0.2200)\n\
             {warnings}\
             and 2 more\n  \
             exit code        3\n  \
             model            tft_model_20260601_020009\n  \
             in service       tft_model_20260531_020007\n  \
             loss             0.3100\n  \
             champion's loss  0.2200\n  \
             loss ratio       1.4090\n  \
             data age         3.0 h\n\
             (fleet on ops1)\n"
        );
        assert_eq!(messages[0].to_text(), expected);
    }
}
