//! A site ready to train in seconds, and what its training left behind.

use std::fs;

use serde_json::Value;

use super::Story;

/// The time of every command in these stories.
const NOW: &str = "2024-01-08T02:00";

impl Story {
    /// The small fleet with `settings` and a window, its clock standing still.
    pub fn ready_to_train(settings: &[(&str, &str)]) -> Self {
        let mut story = Self::with_small_fleet();
        for (key, value) in settings {
            story.set(key, value);
        }
        story.at(NOW).run("window build").exit(0);
        story
    }

    /// The counters in `checkpoints/last`; null where there are none, as between the two renames that replace it.
    pub fn training_state(&self) -> Value {
        let text = fs::read(self.path("checkpoints/last/state.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Trains to the end and returns what it says.
    #[track_caller]
    pub fn train(&self, args: &str) -> Value {
        self.run(&format!("train --device cpu --json {args}")).exit(0).json()
    }

    /// Removes what training made; buffer and window stay.
    pub fn forget_training(&self) {
        for dir in ["checkpoints", "models"] {
            if self.path(dir).exists() {
                fs::remove_dir_all(self.path(dir)).unwrap();
            }
        }
    }

    /// The names of the models.
    pub fn models(&self) -> Vec<String> {
        self.names("models").into_iter().filter(|name| name.starts_with("tft_model_")).collect()
    }

    /// Name and sha256 of every file of a folder, to see that none changed.
    #[track_caller]
    pub fn digests(&self, relative: &str) -> Vec<(String, String)> {
        let digest = |name: &String| {
            let bytes = fs::read(self.path(relative).join(name)).unwrap();
            (name.clone(), tftctl::fsx::sha256_bytes(&bytes))
        };
        self.names(relative).iter().map(digest).collect()
    }
}
