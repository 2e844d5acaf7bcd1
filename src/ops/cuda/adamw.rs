//! A step of AdamW in place: what it does is decided on the device, or beforehand on the host.

use candle_core::Result;

use super::machine::{Arg, Grid, Machine, Memory, PARTS, THREADS, ensure_countable};
use crate::ops::adamw::{AdamWStep, Decision, Rule, StepPlan};

/// Where everything lies.
pub struct State<'a> {
    /// First and second moments, gradient, decays, `[P]` each.
    pub vectors: [Memory; 4],
    /// The weights, block by block in the order of the vectors.
    pub weights: &'a [Memory],
    /// Their means, if there are any.
    pub means: &'a [Memory],
}

/// Numbers of a step, as `kernels/adamw.cu` has them.
const STEP_NUMBERS: usize = 12;

/// The numbers of a step that the host has decided to take; means keep the share `kept` of themselves.
pub fn words(step: AdamWStep, kept: f64) -> [u32; STEP_NUMBERS] {
    let AdamWStep { clip, beta1, beta2, rate, correction2, epsilon, decay } = step;
    let (new1, new2) = (1.0 - beta1, 1.0 - beta2);
    let numbers = [1.0, clip, beta1, new1, beta2, new2, rate, correction2, epsilon, decay, kept, 1.0 - kept];
    numbers.map(|number| (number as f32).to_bits())
}

/// The step whose numbers lie in `step`.
pub fn launch(machine: &mut dyn Machine, state: &State<'_>, step: Memory) -> Result<()> {
    let n = state.vectors[0].len;
    ensure_countable(n)?;
    let table = machine.table(&table(state))?;
    let mut args: Vec<Arg> = vec![table.into(), state.weights.len().into()];
    args.extend(state.vectors.map(Arg::from));
    args.extend([Arg::from(n), step.into()]);
    machine.launch("adamw", Grid::items(n), &args)
}

/// Words of a step's plan.
pub const PLAN_WORDS: usize = 14;

impl Rule {
    /// What a step is decided by, in double precision, as `kernels/adamw.cu` reads it.
    pub fn words(self, learning_rate: f64, mean_decay: f64) -> [u32; PLAN_WORDS] {
        let Rule { beta1, beta2, epsilon, weight_decay, clip } = self;
        let numbers = [beta1, beta2, epsilon, weight_decay, clip, learning_rate, mean_decay];
        std::array::from_fn(|i| (numbers[i / 2].to_bits() >> (32 * (i % 2))) as u32)
    }
}

impl Decision<'_> {
    /// The numbers of the step along the gradient, from `loss [1]` and `counts [2]`; `told` gets loss and squared norm.
    pub fn launch(
        &self,
        machine: &mut dyn Machine,
        state: &State<'_>,
        [loss, counts, told]: [Memory; 3],
    ) -> Result<Memory> {
        let (gradient, n) = (state.vectors[2], state.vectors[2].len);
        let blocks = n.div_ceil(THREADS).clamp(1, PARTS);
        let parts = machine.alloc(blocks)?;
        let grid = Grid { blocks: (blocks, 1), threads: THREADS, shared: THREADS };
        machine.launch("square_parts", grid, &[gradient.into(), n.into(), parts.into()])?;
        let plan = match self.plan {
            StepPlan::Now { learning_rate, mean_decay } => {
                machine.upload(&self.rule.words(learning_rate, mean_decay))?
            }
            StepPlan::At(address) => Memory { address, len: PLAN_WORDS },
        };
        let step = machine.alloc(STEP_NUMBERS)?;
        let args =
            [parts.into(), blocks.into(), loss.into(), plan.into(), counts.into(), step.into(), told.into()];
        machine.launch("decide_step", Grid { blocks: (1, 1), threads: 1, shared: 0 }, &args)?;
        Ok(step)
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
