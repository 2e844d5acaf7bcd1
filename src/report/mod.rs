//! What is written down about a night, and what there is to say about it.
//!
//! In the site's log folder: `metrics.json`, one JSON array with one [`NightRecord`] per logical date, and
//! `training_YYYY-MM-DD.log` for people. From a record come the summary line ([`render_line`]) and the messages
//! ([`messages_for`]) that `notify` delivers. How the numbers came to be is not known here.

mod line;
mod log_retention;
mod metrics_file;
mod night_messages;
mod night_record;
mod training_log;

pub use line::render_line;
pub use log_retention::{OldLog, apply_log_retention, plan_log_retention};
pub use metrics_file::{Appended, METRICS_FILE, append_record, read_records};
pub use night_messages::messages_for;
pub use night_record::{NightOutcome, NightRecord, StageRecord};
pub use training_log::TrainingLog;
