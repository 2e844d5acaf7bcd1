//! Launches that gather batches out of a window that lies on the device; [`crate::dataset`] says what belongs into them,
//! and its batches are the twins, to the bit.

use candle_core::Result;

use super::machine::{Grid, Machine, Memory, ensure_countable};

/// The sizes of a window, and which column of a batch holds what.
#[derive(Clone, Debug)]
pub struct Window {
    pub history: usize,
    pub horizon: usize,
    pub n_steps: usize,
    /// Columns of the window's values.
    pub n_columns: usize,
    /// The column of each metric.
    pub metrics: Vec<usize>,
    /// Each target's place among the metrics.
    pub targets: Vec<usize>,
    /// Places of the groups of real columns: statics lie in front of the calendar.
    pub n_static: usize,
    pub calendar: usize,
    pub relative_time: usize,
    pub first_metric: usize,
    pub missing: usize,
    pub n_reals: usize,
    pub n_codes: usize,
    /// Steps that a value stands in for later ones.
    pub max_gap: usize,
    /// Scaled values lie within it.
    pub scaled_limit: f32,
}

/// What lies on the device. Rows of codes, statistics and statics: two per server, as it is known and as a stranger.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// `[servers, steps, columns]`
    pub values: Memory,
    /// `[servers, steps]`, u32; read if there is a third column of codes.
    pub statuses: Memory,
    /// `[steps + horizon, calendar columns]`
    pub calendar: Memory,
    /// `[rows, 2]`, u32: server and profile.
    pub codes: Memory,
    /// `[rows, 2, metrics]`: centres and scales.
    pub stats: Memory,
    /// `[rows, statics]`
    pub statics: Memory,
}

/// A batch.
pub struct Gathered {
    /// `[samples, history, reals]` and `[samples, horizon, reals]`
    pub reals: [Memory; 2],
    /// `[samples, history, codes]` and `[samples, horizon, codes]`, u32.
    pub codes: [Memory; 2],
    /// `[targets, samples, horizon]`
    pub truths: Memory,
    pub weights: Memory,
    /// `[targets, samples]`
    pub units: Memory,
}

impl Window {
    /// Gathers `n` samples: for each two words, its row and its cutoff.
    pub fn gather(
        &self,
        machine: &mut dyn Machine,
        inputs: Inputs,
        (samples, n): (Memory, usize),
    ) -> Result<Gathered> {
        let (length, n_truths) = (self.history + self.horizon, self.targets.len() * n * self.horizon);
        let (n_reals, n_codes) = (n * length * self.n_reals, n * length * self.n_codes);
        [n_reals, n_codes, n_truths].into_iter().try_for_each(ensure_countable)?;
        let table = machine.table(&self.table(n))?;
        let Inputs { values, statuses, calendar, codes, stats, statics } = inputs;
        let mut parts = |width: usize| -> Result<[Memory; 2]> {
            Ok([machine.alloc(n * self.history * width)?, machine.alloc(n * self.horizon * width)?])
        };
        let (reals, own_codes) = (parts(self.n_reals)?, parts(self.n_codes)?);
        let (truths, weights) = (machine.alloc(n_truths)?, machine.alloc(n_truths)?);
        let units = machine.alloc(self.targets.len() * n)?;
        let args = [values, calendar, stats, statics, table, samples, reals[0], reals[1]];
        machine.launch("gather_reals", Grid::items(n_reals), &args.map(Into::into))?;
        let args = [statuses, codes, table, samples, own_codes[0], own_codes[1]];
        machine.launch("gather_codes", Grid::items(n_codes), &args.map(Into::into))?;
        let args = [values, stats, table, samples, truths, weights, units];
        machine.launch("gather_truths", Grid::items(n_truths), &args.map(Into::into))?;
        Ok(Gathered { reals, codes: own_codes, truths, weights, units })
    }

    /// As `kernels/gather.cu` reads it.
    fn table(&self, n: usize) -> Vec<u32> {
        let sizes = [
            n,
            self.history,
            self.horizon,
            self.n_steps,
            self.n_columns,
            self.metrics.len(),
            self.targets.len(),
            self.n_static,
            self.calendar,
            self.relative_time,
            self.first_metric,
            self.missing,
            self.n_reals,
            self.n_codes,
            self.max_gap,
        ];
        let mut words = sizes.map(|size| size as u32).to_vec();
        words.push(self.scaled_limit.to_bits());
        words.extend(self.metrics.iter().chain(&self.targets).map(|&place| place as u32));
        words
    }
}
