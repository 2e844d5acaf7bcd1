//! The parameters of a block as one flat tensor, because a custom operation takes three arguments at most.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::grn_tile::Pair;

/// All values of `tensors`, one after the other; gradients go back to each.
pub(super) fn pack(tensors: &[&Tensor]) -> Result<Tensor> {
    let flat: Vec<Tensor> = tensors.iter().map(|tensor| tensor.flatten_all()).collect::<Result<_>>()?;
    Tensor::cat(&flat, 0)
}

/// Where what was packed lies, asked for in the same order.
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
