//! A small simulated fleet and a small network: a night in seconds.

use super::Story;

/// The settings that make a night small: the network's sizes and the samples of an epoch, never the exam's.
pub const SMALL: [(&str, &str); 13] = [
    ("training_window_days", "5"),
    ("min_training_samples", "2000"),
    ("series.sample_secs", "300"),
    ("series.step_secs", "1800"),
    ("model.encoder_length", "24"),
    ("model.horizon", "6"),
    ("model.hidden_size", "8"),
    ("model.hidden_continuous_size", "4"),
    ("model.attention_heads", "2"),
    ("model.targets", "[\"cpu_user_pct\", \"mem_used_pct\"]"),
    ("training.batch_size", "32"),
    ("training.samples_per_epoch", "512"),
    ("training.learning_rate", "0.005"),
];

impl Story {
    /// A site with `SMALL` settings and eight days of a simulated fleet of five servers, ending 2024-01-09T06:00Z.
    pub fn with_small_fleet() -> Self {
        let story = Self::new();
        story.run("init").exit(0);
        for (key, value) in SMALL {
            story.set(key, value);
        }
        story
            .run("simulate --servers 5 --start 2024-01-01 --end 2024-01-09T06:00 --tick-secs 300 --seed 7 --out feed.ndjson")
            .exit(0);
        story.run("buffer append feed.ndjson --now 2024-01-09T06:00").exit(0);
        story
    }
}
