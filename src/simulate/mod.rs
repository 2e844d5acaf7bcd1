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
mod faults;
mod incidents;
mod json;
mod lane;
mod metrics;
mod noise;
mod rhythm;
mod roster;
mod spec;
mod states;
mod stream;
mod wear;

#[cfg(test)]
mod realism;

use std::io::{Read, Write};

use anyhow::{Context, Result};

use crate::progress::{Progress, Tick};

pub use incidents::{IncidentKind, IncidentLabel};
pub use json::RowEncoder;
pub use metrics::METRICS;
pub use roster::{Profile, Server};
pub use spec::{FleetSpec, OfflineRows};
pub use states::Status;
pub use stream::{Rows, SimulatedRow, SimulationReport};

use dice::Dice;
use stream::Tenure;

/// A fleet that can be watched, as often as one likes and always the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    spec: FleetSpec,
    dice: Dice,
    servers: Vec<Server>,
    /// Position in [`Profile::ALL`], per server.
    kinds: Vec<usize>,
    tenures: Vec<Tenure>,
    clock_errors_ms: Vec<i64>,
}

/// Bytes written or read at once.
const CHUNK_BYTES: usize = 256 * 1024;

impl Fleet {
    /// The fleet of a specification.
    ///
    /// - Errors: [`Refusal::Usage`](crate::error::Refusal::Usage) if there can be no such fleet.
    pub fn new(spec: &FleetSpec) -> Result<Self> {
        spec.ensure_possible()?;
        let dice = Dice::new(spec.seed);
        let servers = roster::roster(spec.n_servers, dice);
        let faults = faults::Faults::of(spec, dice);
        let kind = |server: &Server| Profile::ALL.iter().position(|profile| *profile == server.profile);
        Ok(Self {
            kinds: servers.iter().map(|server| kind(server).expect("all profiles are listed")).collect(),
            tenures: servers.iter().map(|server| Tenure::draw(spec, dice, server)).collect(),
            clock_errors_ms: servers.iter().map(|server| faults.clock_error_ms(server.index)).collect(),
            spec: spec.clone(),
            dice,
            servers,
        })
    }

    /// What was asked for.
    pub fn spec(&self) -> &FleetSpec {
        &self.spec
    }

    /// The servers, under the names they begin with.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The reports of the fleet in the order in which they arrive, from the beginning.
    pub fn rows(&self) -> Rows<'_> {
        Rows::new(self)
    }

    /// Calls `visit` with every row in the order of arrival.
    ///
    /// - Errors: the first that `visit` returns; the rest is not simulated.
    pub fn for_each_row(
        &self,
        mut visit: impl FnMut(&SimulatedRow<'_>) -> Result<()>,
    ) -> Result<SimulationReport> {
        let mut rows = self.rows();
        for row in rows.by_ref() {
            visit(&row)?;
        }
        Ok(rows.report().clone())
    }

    /// The rows as a stream of NDJSON, for whoever reads records.
    pub fn reader(&self) -> NdjsonReader<'_> {
        NdjsonReader { rows: self.rows(), encoder: RowEncoder::default(), chunk: Vec::new(), n_read: 0 }
    }

    /// Writes all rows to `out` and the labels of all incidents to `labels`, both as NDJSON.
    ///
    /// A record is `{"timestamp","server_name","profile","status","metrics":{..}}`, a label an
    /// [`IncidentLabel`]. Memory does not grow with the length of the simulation.
    ///
    /// - Errors: a writer's.
    pub fn write_ndjson(
        &self,
        out: &mut dyn Write,
        labels: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<SimulationReport> {
        let n_expected = self.spec.n_ticks() * self.servers.len() as u64;
        let mut reader = self.reader();
        loop {
            let is_more = reader.refill();
            out.write_all(&reader.chunk).context("write simulated rows")?;
            for label in reader.rows.take_labels() {
                serde_json::to_writer(&mut *labels, &label).context("write incident labels")?;
                labels.write_all(b"\n").context("write incident labels")?;
            }
            let n_rows = reader.rows.report().n_rows;
            let detail = format!("{} incidents", reader.rows.report().n_incidents);
            progress.tick(&Tick { stage: "simulate", done: n_rows, total: n_expected, unit: "rows", detail });
            if !is_more {
                break;
            }
        }
        out.flush().context("write simulated rows")?;
        labels.flush().context("write incident labels")?;
        Ok(reader.rows.report().clone())
    }
}

/// The rows of a fleet as NDJSON bytes; made by [`Fleet::reader`].
pub struct NdjsonReader<'a> {
    rows: Rows<'a>,
    encoder: RowEncoder,
    chunk: Vec<u8>,
    n_read: usize,
}

impl<'a> NdjsonReader<'a> {
    /// The rows behind the bytes: their labels and what was done so far.
    pub fn rows_mut(&mut self) -> &mut Rows<'a> {
        &mut self.rows
    }

    /// Replaces the chunk by the next one; false if it is the last.
    fn refill(&mut self) -> bool {
        self.chunk.clear();
        self.n_read = 0;
        while self.chunk.len() < CHUNK_BYTES {
            match self.rows.next() {
                Some(row) => self.encoder.encode(&row, &mut self.chunk),
                None => return false,
            }
        }
        true
    }
}

impl Read for NdjsonReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.n_read == self.chunk.len() {
            self.refill();
        }
        let n_bytes = (&self.chunk[self.n_read..]).read(bytes)?;
        self.n_read += n_bytes;
        Ok(n_bytes)
    }
}
