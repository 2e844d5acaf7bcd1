//! The parameters of a variable selection, and where each lies.
//!
//! Those that are its own are one vector; what several selections read (embeddings, and networks that they share) is
//! another. Places count through both, the own ones first.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use crate::ops::GrnSizes;
use crate::ops::grn_fused::Grn;
use crate::ops::grn_tile::{GrnRanges, Pair};
use crate::ops::pack::Places;

/// The parameters of a selection.
#[derive(Clone)]
pub struct VsnWeights {
    pub own: Tensor,
    pub common: Tensor,
    pub packed: Arc<Packed>,
}

/// What processes one variable, and where its parameters begin.
#[derive(Clone, Debug)]
pub enum Variable {
    Real {
        /// In the tensor of reals.
        column: usize,
        /// `[width, 1]` and `[width]`: the embedding is a line.
        line: usize,
        grn: (usize, GrnSizes),
    },
    Categorical {
        /// In the tensor of codes.
        column: usize,
        /// `[codes, width]`
        table: usize,
        n_codes: usize,
        width: usize,
        /// The first row gets no gradient.
        padded: bool,
        resample: usize,
    },
}

/// A tensor's place in the parameters, with its shape.
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
    /// All of it.
    pub range: Range<usize>,
    pub sizes: GrnSizes,
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
    pub padded: bool,
    pub resample: PackedResample,
}

/// Where everything lies in the parameters.
#[derive(Clone, Debug)]
pub struct Packed {
    pub reals: Vec<PackedReal>,
    pub categoricals: Vec<PackedCategorical>,
    /// Over the concatenated embeddings, one output per variable.
    pub joint: PackedGrn,
    /// Where each variable's embedding starts in the concatenation, in the order of the variables.
    pub starts: Vec<usize>,
    /// Numbers of the selection's own.
    pub n_own: usize,
    pub n_common: usize,
    pub hidden: usize,
}

/// The values of the parameters, or their gradients.
#[derive(Clone, Copy)]
pub struct Parameters<'a> {
    own: &'a [f32],
    common: &'a [f32],
}

impl<'a> Parameters<'a> {
    pub fn of(own: &'a [f32], common: &'a [f32]) -> Self {
        Parameters { own, common }
    }

    /// What lies at a place, which is in one of the two.
    pub fn at(self, range: &Range<usize>) -> &'a [f32] {
        match range.start.checked_sub(self.own.len()) {
            None => &self.own[range.clone()],
            Some(start) => &self.common[start..start + range.len()],
        }
    }
}

impl PackedResample {
    fn at(start: usize, n: usize) -> Self {
        let slot = |i: usize| Slot { range: start + i * n..start + (i + 1) * n, shape: vec![n] };
        PackedResample { mask: slot(0), norm: [slot(1), slot(2)] }
    }
}

impl PackedGrn {
    fn at(start: usize, sizes: GrnSizes) -> Self {
        let GrnSizes { n_in, hidden, n_out } = sizes;
        let grn = Grn::new(sizes, None);
        let slot = |range: &Range<usize>, shape: &[usize]| Slot {
            range: start + range.start..start + range.end,
            shape: shape.to_vec(),
        };
        let pair = |pair: &Pair, shape: &[usize]| [slot(&pair.weight, shape), slot(&pair.bias, &shape[..1])];
        PackedGrn {
            first: pair(&grn.first, &[hidden, n_in]),
            second: pair(&grn.tail.second, &[hidden, hidden]),
            gate: pair(&grn.tail.gate, &[2 * n_out, hidden]),
            norm: pair(&grn.tail.norm, &[n_out]),
            resample: sizes.is_stretched().then(|| PackedResample::at(start, n_out)),
            range: start..start + grn.n_values(),
            sizes,
        }
    }
}

impl Packed {
    /// Where the parameters of `variables` and of the `joint` network lie, of `n_own` and `n_common`.
    ///
    /// - Errors: fewer than two variables; sizes that do not fit.
    pub fn new(
        variables: &[Variable],
        joint: (usize, GrnSizes),
        hidden: usize,
        [n_own, n_common]: [usize; 2],
    ) -> Result<Self> {
        ensure!(variables.len() > 1, "a selection needs two variables or more");
        let (mut reals, mut categoricals, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut joined = 0;
        for (number, variable) in variables.iter().enumerate() {
            starts.push(joined);
            match *variable {
                Variable::Real { column, line, grn: (start, sizes) } => {
                    let width = sizes.n_in;
                    ensure!(sizes.n_out == hidden, "a variable of {} features, not {hidden}", sizes.n_out);
                    joined += width;
                    let line = [
                        Slot { range: line..line + width, shape: vec![width, 1] },
                        Slot { range: line + width..line + 2 * width, shape: vec![width] },
                    ];
                    reals.push(PackedReal { number, column, line, grn: PackedGrn::at(start, sizes) });
                }
                Variable::Categorical { column, table, n_codes, width, padded, resample } => {
                    joined += width;
                    let table = Slot { range: table..table + n_codes * width, shape: vec![n_codes, width] };
                    let resample = PackedResample::at(resample, hidden);
                    categoricals.push(PackedCategorical { number, column, table, padded, resample });
                }
            }
        }
        let joint = PackedGrn::at(joint.0, joint.1);
        let (n_joined, n) = (joint.sizes.n_in, joint.sizes.n_out);
        ensure!(n_joined == joined, "embeddings of {joined} features for a network over {n_joined}");
        ensure!(n == variables.len(), "{n} weights for {} variables", variables.len());
        Ok(Packed { reals, categoricals, joint, starts, n_own, n_common, hidden })
    }

    pub fn n_variables(&self) -> usize {
        self.reals.len() + self.categoricals.len()
    }

    /// Width of the concatenated embeddings.
    pub fn width(&self) -> usize {
        self.joint.sizes.n_in
    }

    /// Numbers of all parameters.
    pub fn n_values(&self) -> usize {
        self.n_own + self.n_common
    }
}

/// Where a block's tail lies in another buffer.
pub(super) fn tail(places: &mut Places, grn: &PackedGrn) -> GrnRanges {
    let mut pair = |[weight, bias]: &[Slot; 2]| -> Pair { places.pair(weight.range.len(), bias.range.len()) };
    GrnRanges {
        hidden: grn.sizes.hidden,
        out: grn.sizes.n_out,
        second: pair(&grn.second),
        gate: pair(&grn.gate),
        norm: pair(&grn.norm),
        skip_norm: grn.resample.as_ref().map(|resample| pair(&resample.norm)),
        merged: None,
    }
}
