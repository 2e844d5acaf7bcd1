//! The parameters of a block as one vector: operations read them as they lie, plain compositions through views.

use std::ops::Range;

use candle_core::{Result, Shape, Tensor, bail};

use super::grn_tile::Pair;

/// Where the parameters of a block lie, asked for in their order.
#[derive(Default)]
pub(super) struct Places {
    end: usize,
}

impl Places {
    /// Values placed so far.
    pub fn end(&self) -> usize {
        self.end
    }

    pub fn next(&mut self, n: usize) -> Range<usize> {
        let range = self.end..self.end + n;
        self.end = range.end;
        range
    }

    pub fn pair(&mut self, weight: usize, bias: usize) -> Pair {
        Pair { weight: self.next(weight), bias: self.next(bias) }
    }
}

/// A part of `values` as a tensor of this shape; its gradient goes back to `values`.
pub(super) fn view(values: &Tensor, range: &Range<usize>, shape: impl Into<Shape>) -> Result<Tensor> {
    values.narrow(0, range.start, range.len())?.reshape(shape.into())
}

/// - Errors: `values` is no vector of `n` numbers; `of` says whose they are.
pub(super) fn ensure_len(values: &Tensor, n: usize, of: &str) -> Result<()> {
    if values.dims() != [n] {
        bail!("{of} with parameters {:?} where {n} are needed", values.dims());
    }
    Ok(())
}
