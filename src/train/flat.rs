//! All parameters as one long vector.
//!
//! A computation over all weights is then a handful of operations however many parameters there are, and whatever
//! is summed is summed in the same order in every run: block by block as the weights lie. Names and shapes come back when
//! something is stored: what lies on disk survives a reordering. What is computed with the vectors is left to
//! [`super::optimizer`] and [`super::ema`].

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use crate::model::Params;

/// One parameter's place in the long vector.
struct Slot {
    name: String,
    offset: usize,
    shape: Vec<usize>,
}

/// Where each parameter lies in a vector of `len` values; holds handles, not values.
pub struct Flat {
    blocks: Vec<Var>,
    /// In the parameters' own order.
    slots: Vec<Slot>,
    len: usize,
}

impl Flat {
    /// The parameters, block after block.
    ///
    /// - Errors: no parameters.
    pub fn new(params: &Params) -> Result<Self> {
        let (mut starts, mut len) = (Vec::new(), 0);
        for block in params.blocks() {
            starts.push(len);
            len += block.var.elem_count();
        }
        ensure!(len > 0, "a network needs parameters");
        let slot = |(name, place): (&str, &crate::model::params::Place)| {
            let offset = starts[place.block] + place.range.start;
            Slot { name: name.to_owned(), offset, shape: place.shape.clone() }
        };
        let blocks = params.blocks().iter().map(|block| block.var.clone()).collect();
        Ok(Self { blocks, slots: params.places().map(slot).collect(), len })
    }

    /// Single weights.
    pub fn n_weights(&self) -> usize {
        self.len
    }

    /// For each weight what `number` says of its parameter: name and rank.
    pub fn each(&self, number: impl Fn(&str, usize) -> f32) -> Vec<f32> {
        let mut all = vec![0.0; self.len];
        for slot in &self.slots {
            all[slot.offset..][..slot.len()].fill(number(&slot.name, slot.shape.len()));
        }
        all
    }

    /// The blocks, in order.
    pub fn tensors(&self) -> Vec<&Tensor> {
        self.blocks.iter().map(Var::as_tensor).collect()
    }

    /// The values as they are now: `[P]`.
    pub fn values(&self) -> Result<Tensor> {
        let parts: Vec<Tensor> = self.blocks.iter().map(Var::as_detached_tensor).collect();
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// The gradients of a backward as one vector `[P]`; zero where a block had no part in the loss.
    ///
    /// It is cut off from the graph it comes from: candle leaves some gradients tied to the batch's activations,
    /// and moments made of those would hold on to every batch ever trained.
    pub fn gradient(&self, grads: &GradStore) -> Result<Tensor> {
        let part = |var: &Var| match grads.get(var.as_tensor()) {
            Some(grad) => grad.contiguous(),
            None => var.zeros_like(),
        };
        let parts: Vec<Tensor> = self.blocks.iter().map(part).collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&parts, 0)?.detach())
    }

    /// Adds the parts of `values [P]` to `named`, in their parameters' shapes, as `<prefix><name>`.
    pub fn split_into(
        &self,
        named: &mut HashMap<String, Tensor>,
        values: &Tensor,
        prefix: &str,
    ) -> Result<()> {
        for slot in &self.slots {
            let part = values.narrow(0, slot.offset, slot.len())?.reshape(slot.shape.as_slice())?;
            named.insert(format!("{prefix}{}", slot.name), part);
        }
        Ok(())
    }

    /// The vector of the tensors `<prefix><name>`, on `device`: the inverse of [`Flat::split_into`].
    ///
    /// A tensor with fewer rows than its parameter has now belongs to a table that grew: the new rows are zero.
    ///
    /// - Errors: a tensor is missing or its shape fits in no other way; it is named.
    pub fn gather(&self, named: &HashMap<String, Tensor>, prefix: &str, device: &Device) -> Result<Tensor> {
        let mut all = vec![0f32; self.len];
        for slot in &self.slots {
            let name = format!("{prefix}{}", slot.name);
            let tensor = named.get(&name).with_context(|| format!("optimiser state {name} is missing"))?;
            let (found, expected) = (tensor.dims(), slot.shape.as_slice());
            let fits = found.len() == expected.len()
                && found.get(1..) == expected.get(1..)
                && found.first() <= expected.first();
            ensure!(fits, "optimiser state {name} has shape {found:?}, the parameter {expected:?}");
            let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            all[slot.offset..][..values.len()].copy_from_slice(&values);
        }
        Ok(Tensor::from_vec(all, self.len, device)?)
    }
}

impl Slot {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}
