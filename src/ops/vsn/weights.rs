//! The parameters of a variable selection: as tensors, and packed into one.

use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use crate::ops::grn_tile::{GrnRanges, Pair};
use crate::ops::pack::Places;
pub use crate::ops::{GrnWeights, ResampleWeights};

/// Weight and bias.
pub type LinearWeights = (Tensor, Tensor);

/// What processes one variable.
#[derive(Clone)]
pub enum VariableWeights {
    Real {
        /// In the tensor of reals.
        column: usize,
        /// `[width, 1]` and `[width]`: the embedding is a line.
        line: LinearWeights,
        grn: GrnWeights,
    },
    Categorical {
        /// In the tensor of codes.
        column: usize,
        /// `[codes, width]`
        table: Tensor,
        resample: ResampleWeights,
    },
}

/// A variable selection network of two variables or more.
#[derive(Clone)]
pub struct VsnWeights {
    pub variables: Vec<VariableWeights>,
    /// Over the concatenated embeddings, one output per variable.
    pub joint: GrnWeights,
}

/// A tensor's place in the packed parameters, with its shape.
#[derive(Clone, Debug)]
pub struct Slot {
    pub range: Range<usize>,
    pub shape: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct PackedResample {
    pub mask: Slot,
    pub norm: [Slot; 2],
}

#[derive(Clone, Debug)]
pub struct PackedGrn {
    pub first: [Slot; 2],
    pub second: [Slot; 2],
    pub gate: [Slot; 2],
    pub norm: [Slot; 2],
    pub resample: Option<PackedResample>,
}

#[derive(Clone, Debug)]
pub struct PackedReal {
    /// Among all variables.
    pub number: usize,
    pub column: usize,
    pub line: [Slot; 2],
    pub grn: PackedGrn,
}

#[derive(Clone, Debug)]
pub struct PackedCategorical {
    /// Among all variables.
    pub number: usize,
    pub column: usize,
    pub table: Slot,
    pub resample: PackedResample,
}

/// Where everything lies in the packed parameters.
#[derive(Clone, Debug)]
pub struct Packed {
    pub reals: Vec<PackedReal>,
    pub categoricals: Vec<PackedCategorical>,
    pub joint: PackedGrn,
    /// Where each variable's embedding starts in the concatenation, in the order of the variables.
    pub starts: Vec<usize>,
    pub len: usize,
    pub hidden: usize,
}

impl Packed {
    pub fn n_variables(&self) -> usize {
        self.reals.len() + self.categoricals.len()
    }

    /// Width of the concatenated embeddings.
    pub fn width(&self) -> usize {
        self.joint.first[0].shape[1]
    }
}

/// Collects tensors and says where they will lie.
#[derive(Default)]
struct Packer {
    tensors: Vec<Tensor>,
    len: usize,
}

impl Packer {
    fn add(&mut self, tensor: &Tensor) -> Result<Slot> {
        let range = self.len..self.len + tensor.elem_count();
        self.len = range.end;
        self.tensors.push(tensor.flatten_all()?);
        Ok(Slot { range, shape: tensor.dims().to_vec() })
    }

    fn pair(&mut self, (weight, bias): &LinearWeights) -> Result<[Slot; 2]> {
        Ok([self.add(weight)?, self.add(bias)?])
    }

    fn resample(&mut self, weights: &ResampleWeights) -> Result<PackedResample> {
        Ok(PackedResample { mask: self.add(&weights.mask)?, norm: self.pair(&weights.norm)? })
    }

    fn grn(&mut self, weights: &GrnWeights) -> Result<PackedGrn> {
        Ok(PackedGrn {
            first: self.pair(&weights.first)?,
            second: self.pair(&weights.second)?,
            gate: self.pair(&weights.gate)?,
            norm: self.pair(&weights.norm)?,
            resample: weights.resample.as_ref().map(|resample| self.resample(resample)).transpose()?,
        })
    }
}

impl VsnWeights {
    /// One flat tensor of all parameters, and where each lies in it.
    ///
    /// - Errors: fewer than two variables.
    pub fn pack(&self) -> Result<(Tensor, Packed)> {
        ensure!(self.variables.len() > 1, "a selection needs two variables or more");
        let mut packer = Packer::default();
        let (mut reals, mut categoricals, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut width = 0;
        for (number, variable) in self.variables.iter().enumerate() {
            starts.push(width);
            match variable {
                VariableWeights::Real { column, line, grn } => {
                    width += line.0.dim(0)?;
                    let (line, grn) = (packer.pair(line)?, packer.grn(grn)?);
                    reals.push(PackedReal { number, column: *column, line, grn });
                }
                VariableWeights::Categorical { column, table, resample } => {
                    width += table.dim(1)?;
                    let (table, resample) = (packer.add(table)?, packer.resample(resample)?);
                    categoricals.push(PackedCategorical { number, column: *column, table, resample });
                }
            }
        }
        let joint = packer.grn(&self.joint)?;
        let n_joined = joint.first[0].shape[1];
        ensure!(n_joined == width, "embeddings of {width} features for a network over {n_joined}");
        let hidden = match &self.variables[0] {
            VariableWeights::Real { grn, .. } => grn.norm.0.dim(0)?,
            VariableWeights::Categorical { resample, .. } => resample.mask.dim(0)?,
        };
        let packed = Packed { reals, categoricals, joint, starts, len: packer.len, hidden };
        Ok((Tensor::cat(&packer.tensors, 0)?, packed))
    }
}

/// Where a block's tail lies in another buffer.
pub(super) fn tail(places: &mut Places, grn: &PackedGrn) -> GrnRanges {
    let mut pair = |[weight, bias]: &[Slot; 2]| -> Pair { places.pair(weight.range.len(), bias.range.len()) };
    GrnRanges {
        hidden: grn.second[1].shape[0],
        out: grn.norm[1].shape[0],
        second: pair(&grn.second),
        gate: pair(&grn.gate),
        norm: pair(&grn.norm),
        skip_norm: grn.resample.as_ref().map(|resample| pair(&resample.norm)),
        merged: None,
    }
}
