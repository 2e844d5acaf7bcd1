//! Records in: every accepted format becomes candidates, each is judged by the site's rules, the good ones go to the
//! open days, the bad ones to quarantine with their place and reason.

mod append;
mod csv_rows;
mod derive;
mod documents;
#[cfg(any(test, fuzzing))]
pub(in crate::buffer) mod fuzzing;
mod join;
mod judge;
mod lines;
mod members;
pub(in crate::buffer) mod names;
mod ndjson;
pub(in crate::buffer) mod quarantine;
pub(in crate::buffer) mod record;
mod report;
mod source;
mod telegraf;
mod text;
mod text_sample;
pub(in crate::buffer) mod times;

pub(in crate::buffer) use append::Intake;
pub use derive::{Derived, MAX_TARGETS, derive};
pub use quarantine::QuarantineStatus;
pub use record::{MAX_LABEL_BYTES, MAX_SERVER_NAME_BYTES, OFFLINE, Reason};
pub use report::{AppendOptions, AppendReport};
pub use source::{Format, Source};
