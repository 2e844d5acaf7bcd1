//! A step of AdamW as one launch.

use candle_core::Result;

use super::machine::{Arg, Grid, Machine, Memory, ensure_countable};
use crate::ops::adamw::AdamWStep;

impl AdamWStep {
    /// [`AdamWStep::apply`] on a GPU.
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
}
