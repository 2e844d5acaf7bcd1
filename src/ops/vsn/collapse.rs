//! The selection with its embeddings multiplied out, and the way back for gradients.
//!
//! A real variable enters as a line `x a + b`, and what meets it first is linear: the first layer of its own network, the
//! first layer of the joint one, and both stretched skips. So per variable only a slope and an offset are left of each,
//! and the embeddings, by far the largest intermediate, never exist. A categorical has no network but a stretched skip:
//! its vectors are a table with a row per code. All of it is exact; the gradients of the original parameters follow from
//! those of slopes, offsets and rows by the chain rule, on matrices as small as the parameters.

use std::ops::Range;

use super::rows::Rows;
use super::weights::{Packed, PackedCategorical, PackedGrn, PackedReal, Parameters, Slot, tail};
use crate::ops::grn_tile::{GrnRanges, Pair};
use crate::ops::pack::Places;
use crate::ops::stretch::Stretch;

/// Where everything lies in the collapsed form, of values and of gradients.
pub struct Collapsed {
    pub reals: Vec<CollapsedReal>,
    pub categoricals: Vec<CollapsedCategorical>,
    pub joint: CollapsedJoint,
    pub len: usize,
}

/// `u = x slope + offset`, `skip = x skip_slope + skip_offset`, then the tail.
pub struct CollapsedReal {
    pub number: usize,
    pub column: usize,
    pub slope: Range<usize>,
    pub offset: Range<usize>,
    pub skip_slope: Range<usize>,
    pub skip_offset: Range<usize>,
    pub tail: GrnRanges,
}

/// A row for each code, or for each that is in use.
pub struct CollapsedCategorical {
    pub number: usize,
    pub column: usize,
    pub n_codes: usize,
    rows: TableRows,
    /// `[codes, D]`: the processed vectors.
    pub vectors: Range<usize>,
    /// `[codes, hidden of the joint]`: its share of the joint network's first layer.
    pub first: Range<usize>,
    /// `[codes, N]`: its share of the joint network's raw skip.
    pub skip: Range<usize>,
}

/// What the rows of a categorical's collapsed tables belong to: its codes, or, where the table has more of those than there
/// are steps, the steps.
#[derive(Clone, Debug)]
pub enum TableRows {
    Codes,
    /// The code of each step.
    Steps(Vec<u32>),
    /// So many steps; their codes are known on the device alone.
    StepsOnDevice(usize),
}

/// `u = slopes x + offset + rows of categoricals + context`, the raw skip alike, then the tail.
pub struct CollapsedJoint {
    /// `[hidden, reals]`
    pub slopes: Range<usize>,
    pub offset: Range<usize>,
    /// `[N, reals]`
    pub skip_slopes: Range<usize>,
    pub skip_offset: Range<usize>,
    pub tail: GrnRanges,
}

impl Collapsed {
    /// `rows`: for each categorical.
    pub fn of(packed: &Packed, rows: &[TableRows]) -> Self {
        let mut places = Places::default();
        let (hidden, n) = (packed.hidden, packed.n_variables());
        let joint_hidden = packed.joint.sizes.hidden;
        let reals = packed.reals.iter().map(|real| CollapsedReal {
            number: real.number,
            column: real.column,
            slope: places.next(real.grn.sizes.hidden),
            offset: places.next(real.grn.sizes.hidden),
            skip_slope: places.next(hidden),
            skip_offset: places.next(hidden),
            tail: tail(&mut places, &real.grn),
        });
        let reals: Vec<CollapsedReal> = reals.collect();
        let categoricals = packed.categoricals.iter().zip(rows).map(|(categorical, rows)| {
            let n_codes = match rows {
                TableRows::Codes => categorical.table.shape[0],
                TableRows::Steps(codes) => codes.len(),
                TableRows::StepsOnDevice(n_steps) => *n_steps,
            };
            CollapsedCategorical {
                number: categorical.number,
                column: categorical.column,
                n_codes,
                rows: rows.clone(),
                vectors: places.next(n_codes * hidden),
                first: places.next(n_codes * joint_hidden),
                skip: places.next(n_codes * n),
            }
        });
        let categoricals: Vec<CollapsedCategorical> = categoricals.collect();
        let joint = CollapsedJoint {
            slopes: places.next(joint_hidden * reals.len()),
            offset: places.next(joint_hidden),
            skip_slopes: places.next(n * reals.len()),
            skip_offset: places.next(n),
            tail: tail(&mut places, &packed.joint),
        };
        Collapsed { reals, categoricals, joint, len: places.end() }
    }

    /// The collapsed values of packed parameters.
    pub fn values(&self, packed: &Packed, parameters: Parameters<'_>) -> Vec<f32> {
        let mut values = vec![0f32; self.len];
        for (real, source) in self.reals.iter().zip(&packed.reals) {
            collapse_real(real, source, parameters, &mut values);
        }
        for (categorical, source) in self.categoricals.iter().zip(&packed.categoricals) {
            let rows = Rows::of(categorical, source, parameters);
            values[categorical.vectors.clone()].copy_from_slice(&rows.output);
        }
        self.collapse_joint(packed, parameters, &mut values);
        values
    }

    fn collapse_joint(&self, packed: &Packed, parameters: Parameters<'_>, values: &mut [f32]) {
        let (joint, source) = (&self.joint, &packed.joint);
        let (hidden, n, n_reals) = (joint.tail.hidden, packed.n_variables(), self.reals.len());
        let skip = JointSkip::of(packed, parameters);
        values[joint.offset.clone()].copy_from_slice(parameters.at(&source.first[1].range));
        for (r, real) in packed.reals.iter().enumerate() {
            let (line, start) = (line_of(real, parameters), packed.starts[real.number]);
            for j in 0..hidden {
                let weights = first_segment(packed, parameters, j, start, line[0].len());
                values[joint.slopes.start + j * n_reals + r] = dot(weights, line[0]);
                values[joint.offset.start + j] += dot(weights, line[1]);
            }
            for j in 0..n {
                values[joint.skip_slopes.start + j * n_reals + r] = skip.of_segment(j, start, line[0]);
                values[joint.skip_offset.start + j] += skip.of_segment(j, start, line[1]);
            }
        }
        for (categorical, from) in self.categoricals.iter().zip(&packed.categoricals) {
            let (width, start) = (from.table.shape[1], packed.starts[from.number]);
            for code in 0..categorical.n_codes {
                let row = parameters.at(&categorical.row(from, code));
                for j in 0..hidden {
                    let weights = first_segment(packed, parameters, j, start, width);
                    values[categorical.first.start + code * hidden + j] = dot(weights, row);
                }
                for j in 0..n {
                    values[categorical.skip.start + code * n + j] = skip.of_segment(j, start, row);
                }
            }
        }
        copy_tail(&joint.tail, source, parameters, values);
    }

    /// The gradient of the parameters from that of the collapsed values.
    pub fn expand(&self, packed: &Packed, parameters: Parameters<'_>, grads: &[f32]) -> Vec<f32> {
        let mut expanded = vec![0f32; packed.n_values()];
        for (real, source) in self.reals.iter().zip(&packed.reals) {
            expand_real(real, source, parameters, grads, &mut expanded);
        }
        for (categorical, source) in self.categoricals.iter().zip(&packed.categoricals) {
            let rows = Rows::of(categorical, source, parameters);
            rows.expand(
                (categorical, source),
                parameters,
                &grads[categorical.vectors.clone()],
                &mut expanded,
            );
        }
        self.expand_joint(packed, parameters, grads, &mut expanded);
        for source in packed.categoricals.iter().filter(|source| source.padded) {
            expanded[source.table.range.clone()][..source.table.shape[1]].fill(0.0);
        }
        expanded
    }

    fn expand_joint(&self, packed: &Packed, parameters: Parameters<'_>, grads: &[f32], expanded: &mut [f32]) {
        let (joint, source) = (&self.joint, &packed.joint);
        let (hidden, n, n_reals) = (joint.tail.hidden, packed.n_variables(), self.reals.len());
        let skip = JointSkip::of(packed, parameters);
        let mut d_gate = vec![0f32; n];
        let d_offset = &grads[joint.offset.clone()];
        add(d_offset, &mut expanded[source.first[1].range.clone()]);
        for (r, real) in packed.reals.iter().enumerate() {
            let (line, start) = (line_of(real, parameters), packed.starts[real.number]);
            let lines = [real.line[0].range.clone(), real.line[1].range.clone()];
            for j in 0..hidden {
                let slopes = [grads[joint.slopes.start + j * n_reals + r], d_offset[j]];
                for ((d, values), place) in slopes.into_iter().zip(line).zip(&lines) {
                    through_first(packed, parameters, (j, start), d, values, place.clone(), expanded);
                }
            }
            for j in 0..n {
                let slopes =
                    [grads[joint.skip_slopes.start + j * n_reals + r], grads[joint.skip_offset.start + j]];
                for ((d, values), place) in slopes.into_iter().zip(line).zip(&lines) {
                    d_gate[j] += skip.back(j, start, d, values, &mut expanded[place.clone()]);
                }
            }
        }
        for (categorical, from) in self.categoricals.iter().zip(&packed.categoricals) {
            let start = packed.starts[from.number];
            for code in 0..categorical.n_codes {
                let place = categorical.row(from, code);
                let row = parameters.at(&place);
                for j in 0..hidden {
                    let d = grads[categorical.first.start + code * hidden + j];
                    through_first(packed, parameters, (j, start), d, row, place.clone(), expanded);
                }
                for j in 0..n {
                    let d = grads[categorical.skip.start + code * n + j];
                    d_gate[j] += skip.back(j, start, d, row, &mut expanded[place.clone()]);
                }
            }
        }
        if let Some(resample) = &source.resample {
            skip.mask_gradient(&d_gate, &mut expanded[resample.mask.range.clone()]);
        }
        add_tail(&joint.tail, source, grads, expanded);
    }
}

impl CollapsedCategorical {
    pub fn is_by_step(&self) -> bool {
        !matches!(self.rows, TableRows::Codes)
    }

    /// Where the row of the table lies that row `row` is made of.
    pub fn row(&self, source: &PackedCategorical, row: usize) -> Range<usize> {
        let code = match &self.rows {
            TableRows::Steps(codes) => codes[row] as usize,
            TableRows::Codes | TableRows::StepsOnDevice(_) => row,
        };
        let (start, width) = (source.table.range.start, source.table.shape[1]);
        start + code * width..start + (code + 1) * width
    }
}

/// The weights of output `j` of the joint network's first layer for the embedding that starts at `start`.
fn first_segment<'a>(
    packed: &Packed,
    parameters: Parameters<'a>,
    j: usize,
    start: usize,
    width: usize,
) -> &'a [f32] {
    let at = packed.joint.first[0].range.start + j * packed.width() + start;
    parameters.at(&(at..at + width))
}

/// Takes the gradient `d` of `weights . values` (output `j` of the joint first layer) to the weights and to the values,
/// which are the parameters at `place`.
fn through_first(
    packed: &Packed,
    parameters: Parameters<'_>,
    (j, start): (usize, usize),
    d: f32,
    values: &[f32],
    place: Range<usize>,
    expanded: &mut [f32],
) {
    if d == 0.0 {
        return;
    }
    add_scaled(d, first_segment(packed, parameters, j, start, values.len()), &mut expanded[place]);
    let at = packed.joint.first[0].range.start + j * packed.width() + start;
    add_scaled(d, values, &mut expanded[at..at + values.len()]);
}

/// The joint network's skip: the concatenated embeddings, stretched to one number per variable and gated.
struct JointSkip {
    stretch: Stretch,
    /// Per output, 1 without a stretch; with its slope by the mask.
    gates: Vec<(f32, f32)>,
}

impl JointSkip {
    fn of(packed: &Packed, parameters: Parameters<'_>) -> Self {
        let n = packed.n_variables();
        let gates = match &packed.joint.resample {
            Some(resample) => gates(parameters.at(&resample.mask.range)),
            None => vec![(1.0, 0.0); n],
        };
        JointSkip { stretch: Stretch::new(packed.width(), n), gates }
    }

    /// The share in output `j` of an embedding that starts at `start`.
    fn of_segment(&self, j: usize, start: usize, embedding: &[f32]) -> f32 {
        self.ungated(j, start, embedding) * self.gates[j].0
    }

    fn ungated(&self, j: usize, start: usize, embedding: &[f32]) -> f32 {
        let mut sum = 0.0;
        for (at, weight) in self.stretch.inputs_of(j) {
            if (start..start + embedding.len()).contains(&at) {
                sum += weight * embedding[at - start];
            }
        }
        sum
    }

    /// Adds what the gradient `d` of [`of_segment`](Self::of_segment) means for the embedding; returns what it means for
    /// the gate.
    fn back(&self, j: usize, start: usize, d: f32, embedding: &[f32], d_embedding: &mut [f32]) -> f32 {
        for (at, weight) in self.stretch.inputs_of(j) {
            if (start..start + embedding.len()).contains(&at) {
                d_embedding[at - start] += d * weight * self.gates[j].0;
            }
        }
        d * self.ungated(j, start, embedding)
    }

    fn mask_gradient(&self, d_gate: &[f32], d_mask: &mut [f32]) {
        for ((d_mask, d_gate), (_, slope)) in d_mask.iter_mut().zip(d_gate).zip(&self.gates) {
            *d_mask += d_gate * slope;
        }
    }
}

/// `2 sigmoid(mask)` and its slope.
pub fn gates(mask: &[f32]) -> Vec<(f32, f32)> {
    let gate = |m: &f32| {
        let share = 1.0 / (1.0 + (-m).exp());
        (2.0 * share, 2.0 * share * (1.0 - share))
    };
    mask.iter().map(gate).collect()
}

fn line_of<'a>(real: &PackedReal, parameters: Parameters<'a>) -> [&'a [f32]; 2] {
    [0, 1].map(|i| parameters.at(&real.line[i].range))
}

fn collapse_real(real: &CollapsedReal, source: &PackedReal, parameters: Parameters<'_>, values: &mut [f32]) {
    let line = line_of(source, parameters);
    let (weights, bias) =
        (parameters.at(&source.grn.first[0].range), parameters.at(&source.grn.first[1].range));
    for (j, weights) in weights.chunks_exact(line[0].len()).enumerate() {
        values[real.slope.start + j] = dot(weights, line[0]);
        values[real.offset.start + j] = dot(weights, line[1]) + bias[j];
    }
    let places = [real.skip_slope.clone(), real.skip_offset.clone()];
    for (line, place) in line.into_iter().zip(places) {
        match &source.grn.resample {
            Some(resample) => {
                let stretched = Stretch::new(line.len(), real.tail.out).apply(line);
                let gates = gates(parameters.at(&resample.mask.range));
                for ((value, stretched), gate) in values[place].iter_mut().zip(stretched).zip(gates) {
                    *value = stretched * gate.0;
                }
            }
            None => values[place].copy_from_slice(line),
        }
    }
    copy_tail(&real.tail, &source.grn, parameters, values);
}

fn expand_real(
    real: &CollapsedReal,
    source: &PackedReal,
    parameters: Parameters<'_>,
    grads: &[f32],
    expanded: &mut [f32],
) {
    let line = line_of(source, parameters);
    let width = line[0].len();
    let first = &source.grn.first;
    for (i, from) in [real.slope.clone(), real.offset.clone()].into_iter().enumerate() {
        for (j, &d) in grads[from].iter().enumerate() {
            let at = first[0].range.start + j * width;
            add_scaled(d, line[i], &mut expanded[at..at + width]);
            add_scaled(d, parameters.at(&(at..at + width)), &mut expanded[source.line[i].range.clone()]);
        }
    }
    add(&grads[real.offset.clone()], &mut expanded[first[1].range.clone()]);
    for (i, from) in [real.skip_slope.clone(), real.skip_offset.clone()].into_iter().enumerate() {
        let (d_skip, place) = (&grads[from], source.line[i].range.clone());
        let Some(resample) = &source.grn.resample else {
            add(d_skip, &mut expanded[place]);
            continue;
        };
        let stretch = Stretch::new(width, real.tail.out);
        let gates = gates(parameters.at(&resample.mask.range));
        let stretched = stretch.apply(line[i]);
        let d_mask = &mut expanded[resample.mask.range.clone()];
        for (((d_mask, d), stretched), gate) in d_mask.iter_mut().zip(d_skip).zip(&stretched).zip(&gates) {
            *d_mask += d * stretched * gate.1;
        }
        let d_stretched: Vec<f32> = d_skip.iter().zip(&gates).map(|(d, gate)| d * gate.0).collect();
        stretch.add_back(&d_stretched, &mut expanded[place]);
    }
    add_tail(&real.tail, &source.grn, grads, expanded);
}

/// Calls `each(collapsed range, packed range)` for everything of a block that is the same in both forms.
pub(in crate::ops) fn for_tail(
    tail: &GrnRanges,
    source: &PackedGrn,
    mut each: impl FnMut(Range<usize>, Range<usize>),
) {
    let mut pair = |pair: &Pair, slots: &[Slot; 2]| {
        each(pair.weight.clone(), slots[0].range.clone());
        each(pair.bias.clone(), slots[1].range.clone());
    };
    pair(&tail.second, &source.second);
    pair(&tail.gate, &source.gate);
    pair(&tail.norm, &source.norm);
    if let (Some(norm), Some(resample)) = (&tail.skip_norm, &source.resample) {
        pair(norm, &resample.norm);
    }
}

fn copy_tail(tail: &GrnRanges, source: &PackedGrn, parameters: Parameters<'_>, values: &mut [f32]) {
    for_tail(tail, source, |to, from| values[to].copy_from_slice(parameters.at(&from)));
}

fn add_tail(tail: &GrnRanges, source: &PackedGrn, grads: &[f32], expanded: &mut [f32]) {
    for_tail(tail, source, |from, to| add(&grads[from], &mut expanded[to]));
}

pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &[f32], y: &mut [f32]) {
    add_scaled(1.0, x, y);
}

fn add_scaled(scale: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}
