//! A step of AdamW as one launch, in place.

use candle_core::Result;

use super::machine::{Arg, Grid, Machine, Memory, ensure_countable};
use crate::ops::adamw::AdamWStep;

/// Where everything lies.
pub struct State<'a> {
    /// First and second moments, gradient, decays, `[P]` each.
    pub vectors: [Memory; 4],
    /// The weights, block by block in the order of the vectors.
    pub weights: &'a [Memory],
    /// Their means, if there are any.
    pub means: &'a [Memory],
}

impl AdamWStep {
    /// [`AdamWStep::apply_in_place`] on a GPU; means keep the share `kept` of themselves.
    pub fn launch(self, machine: &mut dyn Machine, state: &State<'_>, kept: Option<f64>) -> Result<()> {
        let n = state.vectors[0].len;
        ensure_countable(n)?;
        let table = machine.upload(&table(state))?;
        let AdamWStep { clip, beta1, beta2, rate, correction2, epsilon, decay } = self;
        let kept = kept.unwrap_or(1.0);
        let (betas, news) = ([beta1, beta2], [1.0 - beta1, 1.0 - beta2]);
        let numbers =
            [clip, betas[0], news[0], betas[1], news[1], rate, correction2, epsilon, decay, kept, 1.0 - kept];
        let mut args: Vec<Arg> = vec![table.into(), state.weights.len().into()];
        args.extend(state.vectors.map(Arg::from));
        args.push(n.into());
        args.extend(numbers.map(|number| Arg::from(number as f32)));
        machine.launch("adamw", Grid::items(n), &args)
    }
}

/// For each block where it begins among all weights, and the addresses of its weights and of their means (0: none), two
/// words each, as `kernels/adamw.cu` reads them.
fn table(state: &State<'_>) -> Vec<u32> {
    let (mut words, mut start) = (Vec::new(), 0);
    for (i, weights) in state.weights.iter().enumerate() {
        let mean = state.means.get(i).map_or(0, |mean| mean.address);
        for number in [start as u64, weights.address, mean] {
            words.extend([number as u32, (number >> 32) as u32]);
        }
        start += weights.len;
    }
    words
}
