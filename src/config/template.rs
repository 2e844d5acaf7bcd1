//! The commented config file that `init` writes.

use std::fmt::Write;

use super::Config;

/// Renders `config` as a commented TOML file; reading it back gives `config` again.
pub fn render(config: &Config) -> String {
    let mut text = String::new();
    let doc = |text: &mut String, comment: &str| {
        for line in comment.lines() {
            writeln!(text, "# {line}").expect("writing to a string cannot fail");
        }
    };
    doc(
        &mut text,
        "The configuration of one tftctl site. Paths are relative to this file's folder.\nEvery key can be overridden by the environment: TFTCTL_TRAINING_TIME, TFTCTL_MODEL__HORIZON, ...\n`tftctl config show --origin` prints what is in force, `tftctl config check` checks it.",
    );
    let table = toml::Table::try_from(config).expect("a config always encodes");
    for (key, comment) in SCALARS {
        text.push('\n');
        doc(&mut text, comment);
        writeln!(text, "{key} = {}", table[key]).expect("writing to a string cannot fail");
    }
    for (section, comment) in SECTIONS {
        text.push('\n');
        doc(&mut text, comment);
        writeln!(text, "[{section}]").expect("writing to a string cannot fail");
        for (key, value) in table[section].as_table().expect("a section is a table") {
            writeln!(text, "{key} = {value}").expect("writing to a string cannot fail");
        }
    }
    for (list, comment) in LISTS {
        text.push('\n');
        doc(&mut text, comment);
        let entries = table[list].as_array().expect("a list is an array");
        if entries.is_empty() {
            writeln!(text, "# (none)").expect("writing to a string cannot fail");
        }
        for entry in entries {
            writeln!(text, "[[{list}]]").expect("writing to a string cannot fail");
            for (key, value) in entry.as_table().expect("entries are tables") {
                writeln!(text, "{key} = {value}").expect("writing to a string cannot fail");
            }
            text.push('\n');
        }
    }
    text
}

const SCALARS: [(&str, &str); 15] = [
    (
        "timezone",
        "The one time zone of the site: it cuts the days, feeds the calendar inputs and dates the nights.",
    ),
    ("data_buffer_dir", "Where the day files lie. A folder outside the site is only read."),
    (
        "data_retention_days",
        "Sealed days older than this are deleted (or archived: [buffer]) by `buffer rotate`.",
    ),
    ("training_window_days", "Days one training reads."),
    ("training_time", "Local time of the nightly run."),
    ("epochs_per_day", "Epochs a night trains, and the first night of a lineage."),
    ("initial_epochs", "Epochs the first night of a lineage trains."),
    ("validation_loss_threshold", "Hard ceiling on the challenger's loss divided by the champion's."),
    ("min_training_samples", "Raw rows a window must hold."),
    ("alert_email", "Receiver of alert mails."),
    (
        "slack_webhook",
        "Slack-format webhook. A secret: write env:NAME, file:PATH or cred:NAME, never the address itself.",
    ),
    ("log_dir", "Nightly logs and metrics.json."),
    ("enable_auto_deploy", "false: `nightly` stops before promotion."),
    (
        "require_validation",
        "false: the exam's quality checks are waived (never loading and sanity), and the log says so.",
    ),
    ("max_training_duration_hours", "Training stops cleanly before this is over."),
];

const SECTIONS: [(&str, &str); 11] = [
    (
        "buffer",
        "retention_action = \"archive\" moves days that are too old to archive_dir (another disk will do) instead of\ndeleting them. Rows are refused while less than min_free_disk_mb is free, beside what
sealing the largest open day takes, which is kept in any case.",
    ),
    (
        "input",
        "What the sources call things. timestamp, server_name, profile and status are columns or members; server_tag\nis the tag of Telegraf records that names the server. timestamp_unit: what numeric times count (s, ms, us, ns;\nauto: s below 10^11, else ms). timestamp_zone: zone of times that name none, such as \"Europe/Berlin\"; empty:\nsuch times are refused. status_values = { up = \"healthy\" } gives a source's statuses the names used here.",
    ),
    (
        "series",
        "The clock of the data: seconds between raw rows, seconds of the model's step, and how far ahead\nof the clock a row may be.",
    ),
    (
        "window",
        "What a training window must hold. Gaps of at most max_gap_steps are filled and masked; longer ones\nend a sample. holdout_hours (and one horizon) at the end are kept for the exam.",
    ),
    (
        "quality",
        "Beyond which limits the quality report of a window speaks (docs/quality-report.md has the rules). Shares are\n0..1, drift is in standard deviations, resize_ratio and unit_tolerance are relative. A finding of a rule in stop_on\nends the run with exit 4 when it befalls a target on at least half of the servers; the others are told.",
    ),
    (
        "model",
        "The network: metrics to forecast, past steps seen, future steps forecast, quantile levels, sizes.\nChanging any of these starts a new lineage; dropout and target_weights may change within one.\ntarget_weights = { cpu_user_pct = 2 } makes a target count twice in the training loss; the others count 1.",
    ),
    (
        "training",
        "samples_per_epoch = 0 takes every sample; sample_stride = N takes one cutoff of a server in N. A window of\nmore than memory_mb (MiB; 0: no limit) is built and trained on in parts. checkpoint_secs is the time between\ntwo checkpoints inside an epoch (0: one after every batch). ema_decay above 0, such as 0.999, serves a\nrunning mean of the weights. cuda_graph = true starts a training step on a GPU as one launch (never tried).\nprecision = \"tf32\" or \"bf16\" rounds what matrix products of a training multiply on a GPU (never tried); on a CPU\nit changes nothing.",
    ),
    ("validation", "Thresholds of the exam that every new model sits."),
    ("notify", "Who hears of a night: `command` gets each message as JSON on standard input."),
    (
        "retention",
        "What is kept: models besides the champion and its predecessors, training states of lineages that were\nleft, days of windows, forecasts, logs.",
    ),
    (
        "prometheus",
        "What `buffer import --prometheus` asks: queries = { cpu_user_pct = \"PromQL\" }, one per metric; server_label names\nthe server of a series, strip_port makes `host` of `host:9100`. Secrets (bearer_token, the values of headers) are\nwritten env:NAME, file:PATH or cred:NAME. docs/prometheus.md has queries for node_exporter.",
    ),
];

const LISTS: [(&str, &str); 3] = [
    ("profile", "Kinds of server by the prefix of their names; the first that fits counts, else `generic`."),
    (
        "metric",
        "The columns. aggregation (mean, max, min, sum, last) makes one value per step; out_of_range = \"keep\"\nor \"quarantine\" decides about values outside min..max; alert_above is what `predict` watches.",
    ),
    (
        "column",
        "Source columns that are metrics under another name or in another unit: metric = source * scale + offset.\nOf Telegraf records the source is measurement.field, and tags chooses one of several series:\n  [[column]]\n  source = \"net.bytes_recv\"\n  metric = \"net_in_mb_s\"\n  scale = 1e-6\n  tags = { interface = \"eth0\" }",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_reads_back_as_what_it_was_made_from() {
        let config = Config::default();
        assert_eq!(Config::parse(&render(&config), &[]).unwrap().config, config);
        let mut weighted = config;
        weighted.model.target_weights.insert("cpu_user_pct".into(), 2.5);
        assert_eq!(Config::parse(&render(&weighted), &[]).unwrap().config, weighted);
    }

    #[test]
    fn every_key_is_in_the_template() {
        let table = toml::Table::try_from(Config::default()).unwrap();
        let text = render(&Config::default());
        for key in table.keys() {
            let found = ["", "[", "[[", "#   [["].iter().any(|open| text.contains(&format!("\n{open}{key}")));
            assert!(found, "{key} is missing from the template");
        }
    }
}
