//! What one training reads: the days of a window on one time grid, with a cut in time and a verdict on the data.
//!
//! In reading order: [`span`] turns days into steps, [`assemble`] puts step tables on a [`Grid`], [`split`] cuts
//! it into train part, embargo and holdout, [`gaps`] finds its holes, [`quality`] says what it is worth,
//! [`mod@build`] does all of that, [`store`] keeps the result, [`verify`] looks at it again and [`feed`] hands it out, whole or in parts.
//!
//! On disk a window is `windows/<end date>-<digest>/` with `steps.parquet` (`steps_file`) and `manifest.json`
//! ([`manifest`]); it is never edited, and the same inputs give the same name and the same bytes. Features,
//! scaling and tensors are the dataset's business.

pub mod assemble;
pub mod buffered;
pub mod build;

pub mod feed;
pub mod gaps;
pub mod grid;
pub mod manifest;
pub mod quality;
mod repair;
pub mod span;
pub mod split;
mod steps_file;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod verify;

pub use buffered::{build, check, inspect, read_recent};
pub use build::WindowRequest;
pub use feed::Feed;
pub use grid::{Grid, Server};
pub use manifest::Manifest;
pub use quality::{Finding, QualityReport, Severity, Verdict};
pub use repair::{MendedWindow, repair};
pub use split::Split;
pub use store::{DamagedWindow, Window, ids, latest, list, list_damaged, open, prune, verify_all};
pub use verify::{ChangedDay, WindowCheck, days_read};
