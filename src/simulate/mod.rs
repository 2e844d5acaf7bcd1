//! A realistic fleet, for demonstrations and tests: servers of seven profiles that live, work and fail.
//!
//! Each server has traits it keeps ([`Server`]), states that last minutes to hours ([`Status`]), a daily and
//! weekly rhythm in the fleet's zone, wear over days (disks fill, processes leak, releases and patches restart
//! them), noise from seconds to days, and incidents, some of which cascade to servers that lean on it.
//! Incidents are labelled beside the data. The stream can be imperfect on request: rows missing, late or
//! repeated, clocks wrong, units mixed up, servers coming and going.
//!
//! **Invariant.** What happens is a function of seed, server and time. A fleet simulated from noon shows what
//! one simulated from midnight shows after noon; a tick of 60 seconds shows every twelfth moment of a tick of
//! 5; a larger fleet contains a smaller one. So `[a, c)` holds the rows of `[a, b)` and `[b, c)`: only the
//! order in which late and repeated rows arrive differs at the seam, where a simulation delivers what it
//! still holds, and an incident across it is labelled in both parts. Replaced servers and newcomers
//! are drawn between start and end, so they alone depend on these.
//!
//! The metrics are those of [`Schema::fleet14`](crate::schema::Schema::fleet14), whose profile rules fit the
//! names. Writing rows to the buffer is left to `buffer append`, files are left to the caller.

mod dice;
mod incidents;
mod metrics;
mod noise;
mod rhythm;
mod roster;
mod spec;
mod states;
mod wear;

pub use incidents::{IncidentKind, IncidentLabel};
pub use metrics::METRICS;
pub use roster::{Profile, Server};
pub use spec::{FleetSpec, OfflineRows};
pub use states::Status;
