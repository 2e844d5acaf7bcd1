//! A night in one line.

use super::NightRecord;

/// What happened, to which model, the first reason, and the numbers that say how good it is; always one line.
pub fn render_line(record: &NightRecord) -> String {
    let mut line = format!("{} {}", record.logical_date, record.outcome.words());
    if let Some(model) = &record.model_id {
        line.push_str(&format!(" {model}"));
    }
    let numbers = numbers(record);
    let explanation = record.explanation();
    let first = explanation.first().map(|reason| one_line(reason));
    let more = (explanation.len() > 1).then(|| format!("{} more reasons", explanation.len() - 1));
    let numbers = (!numbers.is_empty()).then_some(numbers);
    let parts: Vec<String> = [first, more, numbers].into_iter().flatten().collect();
    if parts.is_empty() { line } else { format!("{line}: {}", parts.join("; ")) }
}

fn numbers(record: &NightRecord) -> String {
    let mut parts = Vec::new();
    if let Some(loss) = record.validation_loss {
        let others = comparisons(record);
        let others = if others.is_empty() { others } else { format!(" ({others})") };
        parts.push(format!("loss {loss:.4}{others}"));
    }
    parts.extend(record.coverage.map(|coverage| format!("coverage {coverage:.2}")));
    parts.extend(record.total_epochs.map(|epochs| match epochs {
        1 => "1 epoch".to_owned(),
        _ => format!("{epochs} epochs"),
    }));
    parts.extend(record.training_duration_mins.map(|minutes| format!("{minutes:.1} min")));
    parts.extend(record.data_samples.map(|rows| format!("{rows} rows")));
    parts.join(", ")
}

fn comparisons(record: &NightRecord) -> String {
    let named = [
        ("champion", record.champion_loss),
        ("persistence", record.persistence_loss),
        ("seasonal naive", record.seasonal_naive_loss),
    ];
    let parts: Vec<String> =
        named.iter().filter_map(|(name, loss)| loss.map(|loss| format!("{name} {loss:.4}"))).collect();
    parts.join(", ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::NightOutcome;
    use super::*;

    fn record(outcome: NightOutcome) -> NightRecord {
        NightRecord::new("2026-06-01".parse().unwrap(), outcome, "2026-06-01T03:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_good_night_shows_its_numbers() {
        let record = NightRecord {
            model_id: Some("tft_model_20260601_020009".into()),
            validation_loss: Some(0.21412),
            champion_loss: Some(0.2207),
            persistence_loss: Some(0.31049),
            coverage: Some(0.8123),
            total_epochs: Some(31),
            training_duration_mins: Some(87.04),
            data_samples: Some(10_368_000),
            ..record(NightOutcome::Promoted)
        };
        let expected = "2026-06-01 promoted tft_model_20260601_020009: loss 0.2141 (champion 0.2207, \
                        persistence 0.3105), coverage 0.81, 31 epochs, 87.0 min, 10368000 rows";
        assert_eq!(render_line(&record), expected);
    }

    #[test]
    fn a_bad_night_says_why_on_one_line() {
        let record = NightRecord {
            error: Some("train: write checkpoints/last:\n no space left".into()),
            ..record(NightOutcome::TrainingFailed)
        };
        let expected = "2026-06-01 training failed: train: write checkpoints/last: no space left";
        assert_eq!(render_line(&record), expected);
        assert_eq!(
            render_line(&super::super::NightRecord { error: None, ..record }),
            "2026-06-01 training failed"
        );
    }
}
