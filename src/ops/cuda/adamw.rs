//! A step of AdamW over flat vectors as one launch.

use candle_core::{Result, Tensor};

use super::machine::{Arg, Grid, Machine, Memory, ensure_countable};

/// The numbers of one step.
#[derive(Clone, Copy)]
pub struct AdamWStep {
    /// What the gradient is multiplied by.
    pub clip: f64,
    pub beta1: f64,
    pub beta2: f64,
    /// The learning rate over the first moment's correction.
    pub rate: f64,
    /// The second moment's correction.
    pub correction2: f64,
    pub epsilon: f64,
    /// Learning rate times weight decay.
    pub decay: f64,
}

impl AdamWStep {
    /// New weights, first and second moments of `[weights, first, second, gradient, decays]`, `[P]` each.
    pub fn launch(self, machine: &mut dyn Machine, inputs: [Memory; 5]) -> Result<[Memory; 3]> {
        let n = inputs[0].len;
        ensure_countable(n)?;
        let mut new = || machine.alloc(n);
        let outputs = [new()?, new()?, new()?];
        let AdamWStep { clip, beta1, beta2, rate, correction2, epsilon, decay } = self;
        let numbers = [clip, beta1, beta2, rate, correction2, epsilon, decay];
        let mut args = inputs.map(Arg::from).to_vec();
        args.push(n.into());
        args.extend(numbers.map(|number| Arg::from(number as f32)));
        args.extend(outputs.map(Arg::from));
        machine.launch("adamw", Grid::items(n), &args)?;
        Ok(outputs)
    }

    /// [`launch`](Self::launch) over tensors of a GPU.
    pub fn apply(self, inputs: [&Tensor; 5]) -> Result<[Tensor; 3]> {
        let n = inputs[0].elem_count();
        let outputs = super::over(inputs, |machine, inputs| self.launch(machine, inputs))?;
        Ok(outputs.map(|storage| super::tensor(storage, n)))
    }
}
