//! Launches that multiply the embeddings of a selection out, and take gradients back; [`crate::ops::vsn::collapse`] is the
//! twin. Nothing of it waits for the device: which numbers are made of what is a table of the sizes alone.

use std::ops::Range;

use candle_core::Result;

use super::machine::{Grid, Machine, Memory, ensure_countable};
use crate::ops::vsn::collapse::{Collapsed, CollapsedCategorical, for_tail};
use crate::ops::vsn::weights::{Packed, PackedGrn};

/// The collapse of a selection's parameters.
#[derive(Clone, Copy)]
pub struct Collapse<'a> {
    pub packed: &'a Packed,
    pub collapsed: &'a Collapsed,
    /// Columns of the codes.
    pub n_columns: usize,
}

/// What all launches read.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// The selection's own parameters, and those that several selections read.
    pub own: Memory,
    pub common: Memory,
    /// `[rows, columns]`, u32.
    pub codes: Memory,
}

/// Kinds of sections, as `kernels/collapse.cu` numbers them.
#[derive(Clone, Copy)]
enum Kind {
    Zero,
    Copy,
    Slope,
    Offset,
    Skip,
    Vectors,
    RowFirst,
    RowSkip,
    JointSlopes,
    JointOffset,
    JointSkipSlopes,
    JointSkipOffset,
    DFirst,
    DMask,
    DLine,
    DJointFirst,
    DJointMask,
    DRowMask,
    DRowWeight,
    DRowBias,
    DTable,
}

const NOWHERE: u32 = u32::MAX;

/// A stretch of numbers that are made alike.
struct Section {
    range: Range<usize>,
    kind: Kind,
    about: [usize; 2],
}

impl Collapse<'_> {
    /// The collapsed values, as [`Collapsed`] lays them out.
    pub fn values(self, machine: &mut dyn Machine, inputs: Inputs) -> Result<Memory> {
        let values = machine.alloc(self.collapsed.len)?;
        let Inputs { own, common, codes } = inputs;
        let table = machine.table(&self.table())?;
        let args = [own.into(), common.into(), table.into(), codes.into(), values.into()];
        machine.launch("vsn_collapse", Grid::items(self.collapsed.len), &args)?;
        Ok(values)
    }

    /// The gradients of both kinds of parameters from those of the collapsed values.
    pub fn expand(self, machine: &mut dyn Machine, inputs: Inputs, d_values: Memory) -> Result<[Memory; 2]> {
        let Packed { n_own, n_common, .. } = *self.packed;
        ensure_countable(n_own + n_common)?;
        let Inputs { own, common, codes } = inputs;
        let table = machine.table(&self.table())?;
        let n_rows: usize = self.collapsed.categoricals.iter().map(|one| one.n_codes).sum();
        let moments = machine.alloc(4 * n_rows)?;
        let args = [own.into(), common.into(), table.into(), codes.into(), d_values.into()];
        if n_rows > 0 {
            let own_args = [&args[..], &[n_rows.into(), moments.into()]].concat();
            machine.launch("vsn_row_moments", Grid::items(n_rows), &own_args)?;
        }
        let grads = [machine.alloc(n_own)?, machine.alloc(n_common)?];
        let own_args = [&args[..], &[moments.into(), grads[0].into(), grads[1].into()]].concat();
        machine.launch("vsn_expand", Grid::items(n_own + n_common), &own_args)?;
        Ok(grads)
    }

    /// Header, variables and sections, as `kernels/collapse.cu` reads them.
    fn table(self) -> Vec<u32> {
        let (packed, joint) = (self.packed, &self.packed.joint);
        let (made, taken) = (self.made(), self.taken());
        let header = [
            packed.n_own,
            packed.n_common,
            self.collapsed.len,
            packed.reals.len(),
            packed.categoricals.len(),
            packed.hidden,
            joint.sizes.hidden,
            packed.n_variables(),
            packed.width(),
            joint.first[0].range.start,
        ];
        let mut words = header.map(|number| number as u32).to_vec();
        let (at, sizes) = (self.collapsed.joint.slopes.start, [self.n_columns, made.len(), taken.len()]);
        words.extend([mask_of(joint), at as u32]);
        words.extend(sizes.map(|number| number as u32));
        for (real, own) in packed.reals.iter().zip(&self.collapsed.reals) {
            let (start, width) = (packed.starts[real.number], real.grn.sizes.n_in);
            let first = real.grn.first[0].range.start;
            let numbers = [start, real.line[0].range.start, width, real.grn.sizes.hidden, first];
            words.extend(numbers.map(|number| number as u32));
            words.extend([mask_of(&real.grn), own.slope.start as u32]);
        }
        let mut moments_at = 0;
        for (one, own) in packed.categoricals.iter().zip(&self.collapsed.categoricals) {
            let numbers = [
                packed.starts[one.number],
                one.table.range.start,
                one.table.shape[0],
                one.table.shape[1],
                one.resample.mask.range.start,
                own.n_codes,
                usize::from(own.is_by_step()),
                one.column,
                own.vectors.start,
                usize::from(one.padded),
                moments_at,
            ];
            words.extend(numbers.map(|number| number as u32));
            moments_at += own.n_codes;
        }
        for Section { range, kind, about } in made.iter().chain(&taken) {
            words.extend([range.start as u32, *kind as u32, about[0] as u32, about[1] as u32]);
        }
        words
    }

    /// How the collapsed values are made.
    fn made(self) -> Vec<Section> {
        let mut sections = Vec::new();
        let mut add = |range: &Range<usize>, kind: Kind, about: [usize; 2]| {
            sections.push(Section { range: range.clone(), kind, about });
        };
        for (r, (own, real)) in self.collapsed.reals.iter().zip(&self.packed.reals).enumerate() {
            add(&own.slope, Kind::Slope, [r, 0]);
            add(&own.offset, Kind::Offset, [r, 0]);
            add(&own.skip_slope, Kind::Skip, [r, 0]);
            add(&own.skip_offset, Kind::Skip, [r, 1]);
            for_tail(&own.tail, &real.grn, |to, from| add(&to, Kind::Copy, [from.start, 0]));
        }
        for (number, CollapsedCategorical { vectors, first, skip, .. }) in
            self.collapsed.categoricals.iter().enumerate()
        {
            add(vectors, Kind::Vectors, [number, 0]);
            add(first, Kind::RowFirst, [number, 0]);
            add(skip, Kind::RowSkip, [number, 0]);
        }
        let joint = &self.collapsed.joint;
        add(&joint.slopes, Kind::JointSlopes, [0; 2]);
        add(&joint.offset, Kind::JointOffset, [0; 2]);
        add(&joint.skip_slopes, Kind::JointSkipSlopes, [0; 2]);
        add(&joint.skip_offset, Kind::JointSkipOffset, [0; 2]);
        for_tail(&joint.tail, &self.packed.joint, |to, from| add(&to, Kind::Copy, [from.start, 0]));
        in_order(sections, self.collapsed.len)
    }

    /// How the gradients of the parameters are made; of those that the selection does not read they are zero.
    fn taken(self) -> Vec<Section> {
        let mut sections = Vec::new();
        let mut add = |range: &Range<usize>, kind: Kind, about: [usize; 2]| {
            sections.push(Section { range: range.clone(), kind, about });
        };
        for (r, (own, real)) in self.collapsed.reals.iter().zip(&self.packed.reals).enumerate() {
            add(&real.line[0].range, Kind::DLine, [r, 0]);
            add(&real.line[1].range, Kind::DLine, [r, 1]);
            add(&real.grn.first[0].range, Kind::DFirst, [r, 0]);
            add(&real.grn.first[1].range, Kind::Copy, [own.offset.start, 0]);
            if let Some(resample) = &real.grn.resample {
                add(&resample.mask.range, Kind::DMask, [r, 0]);
            }
            for_tail(&own.tail, &real.grn, |to, from| add(&from, Kind::Copy, [to.start, 0]));
        }
        for (number, one) in self.packed.categoricals.iter().enumerate() {
            add(&one.table.range, Kind::DTable, [number, 0]);
            add(&one.resample.mask.range, Kind::DRowMask, [number, 0]);
            add(&one.resample.norm[0].range, Kind::DRowWeight, [number, 0]);
            add(&one.resample.norm[1].range, Kind::DRowBias, [number, 0]);
        }
        let (joint, source) = (&self.collapsed.joint, &self.packed.joint);
        add(&source.first[0].range, Kind::DJointFirst, [0; 2]);
        add(&source.first[1].range, Kind::Copy, [joint.offset.start, 0]);
        if let Some(resample) = &source.resample {
            add(&resample.mask.range, Kind::DJointMask, [0; 2]);
        }
        for_tail(&joint.tail, source, |to, from| add(&from, Kind::Copy, [to.start, 0]));
        in_order(sections, self.packed.n_values())
    }
}

/// Sections that follow each other up to `n`, with zeros where there was none.
fn in_order(mut sections: Vec<Section>, n: usize) -> Vec<Section> {
    sections.retain(|section| !section.range.is_empty());
    sections.sort_by_key(|section| section.range.start);
    let (mut all, mut end) = (Vec::with_capacity(sections.len()), 0);
    for section in sections {
        assert!(section.range.start >= end, "numbers that are made twice");
        if section.range.start > end {
            all.push(Section { range: end..section.range.start, kind: Kind::Zero, about: [0; 2] });
        }
        end = section.range.end;
        all.push(section);
    }
    if end < n {
        all.push(Section { range: end..n, kind: Kind::Zero, about: [0; 2] });
    }
    all
}

fn mask_of(grn: &PackedGrn) -> u32 {
    grn.resample.as_ref().map_or(NOWHERE, |resample| resample.mask.range.start as u32)
}
