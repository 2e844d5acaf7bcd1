//! Launches of a variable selection; [`crate::ops::vsn`] is the operation, and makes the collapsed values.

use candle_core::Result;

use super::grn::{backward_len, forward_len};
use super::linear::sum_samples;
use super::machine::{Arg, Machine, Memory, STRIDE, Stretch, Tiled, mask_args};
use crate::ops::dropout::Mask;
use crate::ops::vsn::collapse::Collapsed;
use crate::ops::vsn::tile::Sizes;

/// A selection over the rows of all groups.
#[derive(Clone, Copy)]
pub struct Vsn<'a> {
    pub sizes: Sizes,
    pub collapsed: &'a Collapsed,
    /// One per real variable, then the joint network's.
    pub masks: Option<&'a [Mask]>,
}

/// What all launches of a selection read.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// `[groups, rows, columns]`
    pub reals: Memory,
    /// `[groups, rows, columns]`, u32.
    pub codes: Memory,
    /// `[groups, hidden of the joint]`
    pub context: Memory,
    /// As [`Collapsed`] lays them out.
    pub values: Memory,
}

/// The words of a variable in the table, as `kernels/vsn.cu` reads them.
const REAL_WORDS: usize = 7;

impl Vsn<'_> {
    /// The selection `[groups, rows, D]` and the weights `[groups, rows, N]`.
    pub fn forward(self, machine: &mut dyn Machine, inputs: Inputs) -> Result<[Memory; 2]> {
        let (n_rows, n, out, joint_hidden) =
            (self.n_rows(), self.n(), self.sizes.hidden, self.joint_hidden());
        let networks = forward_len(joint_hidden, n).max(forward_len(self.widest(), out));
        let workspace = (self.collapsed.reals.len() + n + out) * STRIDE + networks;
        let tiled = Tiled::forward(machine, n_rows, workspace)?;
        let (selected, shares) = (machine.alloc(n_rows * out)?, machine.alloc(n_rows * n)?);
        let table = self.put_table(machine)?;
        let mut args = self.args(inputs, table, &tiled);
        args.extend([Arg::from(self.widest()), selected.into(), shares.into()]);
        machine.launch("vsn_forward", tiled.grid, &args)?;
        Ok([selected, shares])
    }

    /// From the gradient of the selection to those of the context and of the collapsed values.
    pub fn backward(
        self,
        machine: &mut dyn Machine,
        inputs: Inputs,
        shares: Memory,
        d_selected: Memory,
    ) -> Result<[Memory; 2]> {
        let (n_rows, n, joint_hidden) = (self.n_rows(), self.n(), self.joint_hidden());
        let d_values = machine.alloc(self.collapsed.len)?;
        let d_shares = machine.alloc(n_rows * n)?;
        let table = self.put_table(machine)?;
        let from = [shares, d_selected];
        self.reals_backward(machine, inputs, table, from, d_shares, d_values)?;
        self.categoricals_backward(machine, inputs, table, from, d_shares, d_values)?;

        let workspace = (self.collapsed.reals.len() + n) * STRIDE + backward_len(joint_hidden, n);
        let (joint_len, tables_len) = (self.joint_len(), self.tables().map(|table| table.1).sum::<usize>());
        let grads_len = joint_len + tables_len;
        let tiled = Tiled::backward(machine, n_rows, 1, workspace, grads_len)?;
        let d_first = machine.alloc(n_rows * joint_hidden)?;
        let [grads_at, parts] = tiled.grads();
        let mut args = self.args(inputs, table, &tiled);
        args.extend([d_shares.into(), grads_at, parts, grads_len.into(), d_first.into()]);
        machine.launch("vsn_backward_joint", tiled.grid, &args)?;
        let mut stretches =
            vec![Stretch { row: 0, some: 0..joint_len, to: self.collapsed.joint.slopes.start }];
        let mut at = joint_len;
        for (to, len) in self.tables() {
            stretches.push(Stretch { row: 0, some: at..at + len, to });
            at += len;
        }
        tiled.sum_stretches(machine, &stretches, d_values)?;
        let sizes = (self.sizes.n_groups, self.sizes.n_rows, joint_hidden);
        Ok([sum_samples(machine, d_first, sizes)?, d_values])
    }

    fn reals_backward(
        self,
        machine: &mut dyn Machine,
        inputs: Inputs,
        table: Memory,
        [shares, d_selected]: [Memory; 2],
        d_shares: Memory,
        d_values: Memory,
    ) -> Result<()> {
        let reals = &self.collapsed.reals;
        let ends = reals.iter().skip(1).map(|real| real.slope.start).chain([self.reals_end()]);
        let ranges: Vec<_> = reals.iter().zip(ends).map(|(real, end)| real.slope.start..end).collect();
        let Some(grads_len) = ranges.iter().map(|range| range.len()).max() else { return Ok(()) };
        let out = self.sizes.hidden;
        let workspace = (2 + 2 * out) * STRIDE + backward_len(self.widest(), out);
        let tiled = Tiled::backward(machine, self.n_rows(), reals.len(), workspace, grads_len)?;
        let [grads_at, parts] = tiled.grads();
        let mut args = self.args(inputs, table, &tiled);
        args.extend([Arg::from(self.widest()), shares.into(), d_selected.into()]);
        args.extend([grads_at, parts, grads_len.into(), d_shares.into()]);
        machine.launch("vsn_backward_reals", tiled.grid, &args)?;
        let stretches = ranges.iter().enumerate();
        let stretches = stretches.map(|(row, range)| Stretch { row, some: 0..range.len(), to: range.start });
        tiled.sum_stretches(machine, &stretches.collect::<Vec<_>>(), d_values)?;
        Ok(())
    }

    fn categoricals_backward(
        self,
        machine: &mut dyn Machine,
        inputs: Inputs,
        table: Memory,
        [shares, d_selected]: [Memory; 2],
        d_shares: Memory,
        d_values: Memory,
    ) -> Result<()> {
        let categoricals = &self.collapsed.categoricals;
        let Some(grads_len) = categoricals.iter().map(|one| one.vectors.len()).max() else { return Ok(()) };
        let workspace = (1 + self.sizes.hidden) * STRIDE;
        let tiled = Tiled::backward(machine, self.n_rows(), categoricals.len(), workspace, grads_len)?;
        let [grads_at, parts] = tiled.grads();
        let mut args = self.args(inputs, table, &tiled);
        args.extend([shares.into(), d_selected.into(), grads_at, parts, grads_len.into(), d_shares.into()]);
        machine.launch("vsn_backward_categoricals", tiled.grid, &args)?;
        let stretches = categoricals.iter().map(|one| one.vectors.clone()).enumerate();
        let stretches = stretches.map(|(row, range)| Stretch { row, some: 0..range.len(), to: range.start });
        tiled.sum_stretches(machine, &stretches.collect::<Vec<_>>(), d_values)?;
        Ok(())
    }

    fn n_rows(self) -> usize {
        self.sizes.n_groups * self.sizes.n_rows
    }

    fn n(self) -> usize {
        self.collapsed.joint.tail.out
    }

    fn joint_hidden(self) -> usize {
        self.collapsed.joint.tail.hidden
    }

    /// The most hidden features of a variable's network.
    fn widest(self) -> usize {
        self.collapsed.reals.iter().map(|real| real.tail.hidden).max().unwrap_or(0)
    }

    /// Where the values of the reals end and the next ones begin.
    fn reals_end(self) -> usize {
        let categorical = self.collapsed.categoricals.first();
        categorical.map_or(self.collapsed.joint.slopes.start, |categorical| categorical.vectors.start)
    }

    fn joint_len(self) -> usize {
        self.collapsed.len - self.collapsed.joint.slopes.start
    }

    /// Of each categorical: where its shares in the joint network begin, and how many numbers they are.
    fn tables(&self) -> impl Iterator<Item = (usize, usize)> {
        let categoricals = self.collapsed.categoricals.iter();
        categoricals.map(|one| (one.first.start, one.first.len() + one.skip.len()))
    }

    /// Streams change from step to step, unless they are known on the device alone.
    fn put_table(self, machine: &mut dyn Machine) -> Result<Memory> {
        let is_fixed = self.masks.is_none_or(|masks| masks.iter().all(|mask| mask.parts().key_at != 0));
        if is_fixed { machine.table(&self.table()) } else { machine.upload(&self.table()) }
    }

    fn table(self) -> Vec<u32> {
        let mut words = Vec::with_capacity(REAL_WORDS * self.collapsed.reals.len());
        for (r, real) in self.collapsed.reals.iter().enumerate() {
            let key = self.masks.map_or(0, |masks| masks[r].parts().key);
            let sizes = [real.slope.start, real.number, real.column, real.tail.hidden];
            words.extend(sizes.map(|size| size as u32));
            words.extend([u32::from(real.tail.skip_norm.is_some()), key as u32, (key >> 32) as u32]);
        }
        let mut scattered = self.joint_len();
        for (one, (_, len)) in self.collapsed.categoricals.iter().zip(self.tables()) {
            let by_step = usize::from(one.is_by_step());
            let sizes = [one.vectors.start, one.number, one.column, one.n_codes, by_step, scattered];
            words.extend(sizes.map(|size| size as u32));
            scattered += len;
        }
        words
    }

    /// The arguments that all kernels begin with.
    fn args(self, inputs: Inputs, table: Memory, tiled: &Tiled) -> Vec<Arg> {
        let (sizes, joint) = (self.sizes, &self.collapsed.joint);
        let memory = [inputs.reals, inputs.codes, inputs.context, inputs.values, table];
        let numbers = [
            self.n_rows(),
            sizes.n_rows.max(1),
            sizes.n_reals,
            sizes.n_codes,
            self.collapsed.reals.len(),
            self.collapsed.categoricals.len(),
            sizes.hidden,
            self.joint_hidden(),
            joint.slopes.start,
            usize::from(joint.tail.skip_norm.is_some()),
        ];
        let mask = self.masks.and_then(|masks| masks.last().copied());
        let mut args: Vec<Arg> = memory.map(Arg::from).to_vec();
        args.extend(numbers.map(Arg::from));
        args.extend(mask_args(mask));
        args.push(tiled.spill.into());
        args
    }
}
