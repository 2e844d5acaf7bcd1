//! Named parameters as one long vector.
//!
//! A computation over all weights is then a handful of operations however many parameters there are, and whatever
//! is summed is summed in the same order in every run. Names and shapes come back when something is stored: what
//! lies on disk survives a reordering. What is computed with the vectors is left to [`super::optimizer`] and
//! [`super::ema`].

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};

/// One parameter's place in the long vector.
struct Slot {
    name: String,
    var: Var,
    offset: usize,
    len: usize,
}

/// Where each parameter lies in a vector of `len` values; holds handles, not values.
pub struct Flat {
    slots: Vec<Slot>,
    len: usize,
}

impl Flat {
    /// The parameters in the order given, which is the order of every sum.
    ///
    /// - Errors: no parameters, or a variable that is not f32.
    pub fn new<'a>(params: impl Iterator<Item = (&'a str, &'a Var)>) -> Result<Self> {
        let (mut slots, mut end) = (Vec::new(), 0);
        for (name, var) in params {
            ensure!(var.dtype() == DType::F32, "parameter {name} is {:?}, not f32", var.dtype());
            let len = var.elem_count();
            slots.push(Slot { name: name.to_owned(), var: var.clone(), offset: end, len });
            end += len;
        }
        ensure!(!slots.is_empty(), "a network needs parameters");
        Ok(Self { slots, len: end })
    }

    /// Single weights.
    pub fn n_weights(&self) -> usize {
        self.len
    }

    /// Name and variable of each parameter, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.var))
    }

    /// The variables' tensors, in order.
    pub fn tensors(&self) -> Vec<&Tensor> {
        self.slots.iter().map(|slot| slot.var.as_tensor()).collect()
    }

    /// The values as they are now: `[P]`.
    pub fn values(&self) -> Result<Tensor> {
        let flat = |slot: &Slot| slot.var.as_detached_tensor().flatten_all();
        let parts: Vec<Tensor> = self.slots.iter().map(flat).collect::<Result<_, _>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Writes `values [P]` into the variables.
    pub fn set(&self, values: &Tensor) -> Result<()> {
        for slot in &self.slots {
            let part = values.narrow(0, slot.offset, slot.len)?.reshape(slot.var.shape())?;
            slot.var.set(&part).with_context(|| format!("update parameter {}", slot.name))?;
        }
        Ok(())
    }

    /// Adds the parts of `values [P]` to `named`, in their parameters' shapes, as `<prefix><name>`.
    pub fn split_into(
        &self,
        named: &mut HashMap<String, Tensor>,
        values: &Tensor,
        prefix: &str,
    ) -> Result<()> {
        for slot in &self.slots {
            let part = values.narrow(0, slot.offset, slot.len)?.reshape(slot.var.shape())?;
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
        let mut parts = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let name = format!("{prefix}{}", slot.name);
            let tensor = named.get(&name).with_context(|| format!("optimiser state {name} is missing"))?;
            let (found, expected) = (tensor.dims(), slot.var.dims());
            let fits = found.len() == expected.len()
                && found.get(1..) == expected.get(1..)
                && found.first() <= expected.first();
            ensure!(fits, "optimiser state {name} has shape {found:?}, the parameter {expected:?}");
            let flat = tensor.to_device(device)?.flatten_all()?;
            let n_missing = slot.len - flat.elem_count();
            parts.push(if n_missing == 0 { flat } else { flat.pad_with_zeros(0, 0, n_missing)? });
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}
