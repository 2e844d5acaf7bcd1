//! AdamW with named moments and global-norm clipping.
//!
//! All weights are one long vector ([`Flat`]): the norm is summed in the same order in every run, and a step is one pass
//! over the weights where they lie. Moments are known by parameter name outside, so that a checkpoint survives a
//! reordering and a table can grow rows.
//!
//! Decay is decoupled (Loshchilov and Hutter, arXiv:1711.05101) and spares biases, norms and embedding tables:
//! matrices only. Rows of servers that are absent tonight do not fade.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use super::flat::Flat;
use crate::model::Params;
use crate::ops::adamw::{AdamWStep, Decision, InPlace, Rule, StepPlan};
use crate::ops::cuda::adamw::PLAN_WORDS;

/// The constants of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Share of a weight that decays per step, times the learning rate.
    pub weight_decay: f64,
    /// Largest global 2-norm of the gradient; longer ones are shortened to it.
    pub clip: f64,
}

impl AdamWSettings {
    /// The usual betas and epsilon with this decay and clipping.
    pub fn new(weight_decay: f64, clip: f64) -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay, clip }
    }

    fn rule(self) -> Rule {
        let Self { beta1, beta2, epsilon, weight_decay, clip } = self;
        Rule { beta1, beta2, epsilon, weight_decay, clip }
    }
}

/// The running mean of the weights (see [`super::ema`]) that takes a step's weights in.
pub struct Mean<'a> {
    pub means: &'a Flat,
    /// The share of them that stays at most.
    pub decay: f64,
    /// Steps behind them.
    pub n_steps: u64,
}

impl Mean<'_> {
    /// The share of them that stays.
    fn kept(&self) -> f64 {
        self.decay.min((1.0 + self.n_steps as f64) / (10.0 + self.n_steps as f64))
    }
}

/// The optimiser of one set of parameters.
pub struct AdamW {
    settings: AdamWSettings,
    params: Flat,
    /// `[P]`: 1 where the weight decays, else 0.
    decays: Tensor,
    /// `[P]`: running mean of the gradient.
    first: Tensor,
    /// `[P]`: running mean of the squared gradient.
    second: Tensor,
    /// Steps taken since the moments began; corrects their bias towards zero.
    n_steps: u64,
    /// On a GPU that decides about steps itself, what it has counted: steps behind the moments and behind the means.
    counts: Option<Tensor>,
}

/// Prefixes of the moments in [`AdamW::moments`].
const FIRST: &str = "m.";
const SECOND: &str = "v.";

impl AdamW {
    /// An optimiser with zero moments.
    ///
    /// Handles to the parameters are kept.
    ///
    /// - Errors: no parameters.
    pub fn new(params: &Params, settings: AdamWSettings, device: &Device) -> Result<Self> {
        let params = Flat::new(params)?;
        let mask = params.each(|name, rank| f32::from(u8::from(is_decayed(name, rank))));
        let n_weights = params.n_weights();
        let zeros = || Tensor::zeros(n_weights, DType::F32, device);
        let decays = Tensor::from_vec(mask, n_weights, device)?;
        Ok(Self { settings, params, decays, first: zeros()?, second: zeros()?, n_steps: 0, counts: None })
    }

    /// Steps taken since the moments began.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The gradient of all weights: see [`Flat::gradient`].
    pub fn gradient(&self, grads: &GradStore) -> Result<Tensor> {
        self.params.gradient(grads)
    }

    /// The parts of a vector `[P]` such as a gradient, by parameter name and in their shapes.
    pub fn named(&self, values: &Tensor) -> Result<HashMap<String, Tensor>> {
        let mut named = HashMap::new();
        self.params.split_into(&mut named, values, "")?;
        Ok(named)
    }

    /// One step along `gradient` `[P]`, whose 2-norm is `norm`; a `mean` takes in the weights behind it.
    ///
    /// With the clipped gradient g: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
    /// `w = w (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.
    ///
    /// - Errors: the device fails. `norm` must be finite: see [`super::guard`].
    pub fn step(
        &mut self,
        gradient: &Tensor,
        norm: f64,
        learning_rate: f64,
        mean: Option<Mean<'_>>,
    ) -> Result<()> {
        debug_assert!(norm.is_finite(), "a step along a gradient that is not finite");
        let AdamWSettings { beta1, beta2, epsilon, weight_decay, clip } = self.settings;
        // PyTorch's clip_grad_norm_, epsilon included.
        let shortened = (clip / (norm + 1e-6)).min(1.0);
        self.n_steps += 1;
        let exponent = self.n_steps.min(i32::MAX as u64) as i32;
        let (correction1, correction2) = (1.0 - beta1.powi(exponent), 1.0 - beta2.powi(exponent));
        let rate = learning_rate / correction1;
        let decay = learning_rate * weight_decay;
        let step = AdamWStep { clip: shortened, beta1, beta2, rate, correction2, epsilon, decay };
        let means = mean.as_ref().map(|mean| (mean.means.tensors(), mean.kept()));
        let (weights, moments) = (self.params.tensors(), [&self.first, &self.second]);
        let state = InPlace { weights, means, moments, gradient, decays: &self.decays };
        Ok(step.apply_in_place(&state)?)
    }

    /// [`step`](Self::step) on a GPU, which decides itself and waits for nobody: along a loss or gradient that is not finite
    /// nothing moves. `[2]`: the loss and the square of the gradient's norm; once read, [`count`](Self::count) the steps.
    pub fn step_if_finite(
        &mut self,
        gradient: &Tensor,
        loss: &Tensor,
        plan: StepPlan,
        mean: Option<Mean<'_>>,
    ) -> Result<Tensor> {
        let rule = self.settings.rule();
        let n_behind = [self.n_steps, mean.as_ref().map_or(0, |mean| mean.n_steps)];
        let counts = match &self.counts {
            Some(counts) => counts.clone(),
            None => Tensor::new(&n_behind.map(|n| n as f32), gradient.device())?,
        };
        // Kept also where the step fails: once there are steps that nobody has read, the host counts behind.
        self.counts = Some(counts.clone());
        let means = mean.as_ref().map(|mean| (mean.means.tensors(), mean.kept()));
        let (weights, moments) = (self.params.tensors(), [&self.first, &self.second]);
        let state = InPlace { weights, means, moments, gradient, decays: &self.decays };
        let decision = Decision { rule, loss, counts: &counts, plan };
        Ok(decision.apply(&state)?)
    }

    /// What a step is decided by, as words for [`StepPlan::At`].
    pub fn plan_words(&self, learning_rate: f64, mean_decay: f64) -> [u32; PLAN_WORDS] {
        self.settings.rule().words(learning_rate, mean_decay)
    }

    /// Counts a step that a GPU has taken.
    pub fn count(&mut self) {
        self.n_steps += 1;
    }

    /// The 2-norm of all weights. Not finite where a weight is not, or is so large that it is past saving.
    pub fn weights_norm(&self) -> Result<f64> {
        let sum_of_squares = self.params.values()?.sqr()?.sum_all()?.to_scalar::<f32>()?;
        Ok(f64::from(sum_of_squares).sqrt())
    }

    /// The moments as they are now, as named tensors in their parameters' shapes: `m.<name>` and `v.<name>`.
    pub fn moments(&self) -> Result<HashMap<String, Tensor>> {
        let mut moments = HashMap::new();
        self.params.split_into(&mut moments, &self.first.copy()?, FIRST)?;
        self.params.split_into(&mut moments, &self.second.copy()?, SECOND)?;
        Ok(moments)
    }

    /// Continues from the moments of [`AdamW::moments`] after `n_steps` steps.
    ///
    /// A moment with fewer rows than its parameter has now belongs to a table that grew: the new rows are zero.
    ///
    /// - Errors: a moment is missing or its shape fits in no other way; it is named.
    pub fn restore(&mut self, moments: &HashMap<String, Tensor>, n_steps: u64) -> Result<()> {
        let device = self.first.device().clone();
        self.first = self.params.gather(moments, FIRST, &device)?;
        self.second = self.params.gather(moments, SECOND, &device)?;
        self.n_steps = n_steps;
        self.counts = None;
        Ok(())
    }
}

/// Whether weight decay applies: to matrices that are no embedding table.
fn is_decayed(name: &str, rank: usize) -> bool {
    rank >= 2 && !name.contains("embeddings.")
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::model::layout::{Initial, Layout};

    /// Parameters of these names, values and shapes.
    fn params(all: &[(&str, &[f32], &[usize])]) -> Params {
        let mut layout = Layout::default();
        for (name, _, shape) in all {
            layout.add((*name).to_owned(), shape, Initial::Zeros);
        }
        let values = |name: &str| all.iter().find(|(own, ..)| *own == name).unwrap().1.to_vec();
        Params::build(&layout, &Device::Cpu, |declaration| Ok(values(&declaration.name))).unwrap()
    }

    fn var<'a>(params: &'a Params, name: &str) -> &'a Var {
        &params.blocks().iter().find(|block| block.name == name).unwrap().var
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[track_caller]
    fn assert_close(got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!((f64::from(*a) - b).abs() < 1e-6, "{got:?}, expected {expected:?}");
        }
    }

    fn optimizer(params: &Params, settings: AdamWSettings) -> AdamW {
        AdamW::new(params, settings, &Device::Cpu).unwrap()
    }

    #[test]
    fn two_steps_by_hand() {
        // lr 0.1, decay 0.5 on the matrix only. Step 1, g = (2, -1 | 4): the bias-corrected m / sqrt(v) is the
        // sign of g, so w = (1, 2) * 0.95 - 0.1 * (1, -1) and b = 3 - 0.1.
        let params = params(&[("fc.weight", &[1.0, 2.0], &[1, 2]), ("fc.bias", &[3.0], &[1])]);
        let mut adam = optimizer(&params, AdamWSettings::new(0.5, 1e9));
        let gradient = Tensor::new(&[2.0f32, -1.0, 4.0], &Device::Cpu).unwrap();
        adam.step(&gradient, 21f64.sqrt(), 0.1, None).unwrap();
        assert_close(&values(params.get("fc.weight").unwrap()), &[0.85, 2.0]);
        assert_close(&values(params.get("fc.bias").unwrap()), &[2.9]);
        // Step 2, g = (0, -1 | 4). First weight: m = 0.9 * 0.2 = 0.18, v = 0.999 * 0.004 = 0.003996;
        // m / (1 - 0.81) = 0.947368, v / (1 - 0.998001) = 1.998999, so the update is 0.1 * 0.670058.
        let gradient = Tensor::new(&[0.0f32, -1.0, 4.0], &Device::Cpu).unwrap();
        adam.step(&gradient, 17f64.sqrt(), 0.1, None).unwrap();
        assert_close(&values(params.get("fc.weight").unwrap()), &[0.85 * 0.95 - 0.0670058, 2.0 * 0.95 + 0.1]);
        assert_close(&values(params.get("fc.bias").unwrap()), &[2.8]);
        let moments = adam.moments().unwrap();
        assert_close(&values(&moments["m.fc.weight"]), &[0.18, -0.19]);
        assert_close(&values(&moments["v.fc.bias"]), &[0.016 * 0.999 + 0.016]);
        assert_eq!(adam.n_steps(), 2);
    }

    #[test]
    fn a_long_gradient_is_shortened_to_the_limit() {
        let params = params(&[("fc.bias", &[0.0, 0.0], &[2])]);
        let mut adam = optimizer(&params, AdamWSettings::new(0.0, 0.5));
        adam.step(&Tensor::new(&[3.0f32, 4.0], &Device::Cpu).unwrap(), 5.0, 0.1, None).unwrap();
        assert_close(&values(&adam.moments().unwrap()["m.fc.bias"]), &[0.03, 0.04]);
    }

    #[test]
    fn biases_norms_and_embeddings_do_not_decay() {
        assert!(is_decayed("pos_wise_ff.fc1.weight", 2));
        assert!(!is_decayed("pos_wise_ff.fc1.bias", 1));
        assert!(!is_decayed("pos_wise_ff.gate_norm.add_norm.norm.weight", 1));
        assert!(!is_decayed("input_embeddings.embeddings.server.weight", 2));
    }

    #[test]
    fn the_gradient_of_a_loss_is_gathered_in_order_with_zeros_for_the_unused() {
        let params = params(&[("a", &[1.0, 2.0], &[2]), ("unused", &[5.0], &[1]), ("b", &[3.0], &[1])]);
        let (a, b) = (var(&params, "a"), var(&params, "b"));
        let loss = (a.sqr().unwrap().sum_all().unwrap() + b.sum_all().unwrap()).unwrap();
        let adam = optimizer(&params, AdamWSettings::new(0.0, 1.0));
        let gradient = adam.gradient(&loss.backward().unwrap()).unwrap();
        assert_eq!(values(&gradient), [2.0, 4.0, 0.0, 1.0]);
        assert_eq!(values(&adam.named(&gradient).unwrap()["a"]), [2.0, 4.0]);
    }

    /// Moments once held on to every batch of a run: 7 GB after 2000 steps of a network of 62 000 weights.
    #[test]
    fn moments_hold_on_to_no_batch() {
        let params = params(&[("a", &[2.0, 3.0], &[2]), ("b", &[5.0, 7.0], &[2])]);
        let (a, b) = (var(&params, "a"), var(&params, "b"));
        let mut adam = optimizer(&params, AdamWSettings::new(0.0, 1e9));
        let loss = (a.as_tensor() * b.as_tensor()).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let is_tied = |var: &Var| grads.get(var.as_tensor()).unwrap().track_op();
        assert!(is_tied(a), "candle cuts gradients off by itself now: the detach can go");
        let gradient = adam.gradient(&grads).unwrap();
        assert_eq!(values(&gradient), [5.0, 7.0, 2.0, 3.0]);
        adam.step(&gradient, 87f64.sqrt(), 0.1, None).unwrap();
        assert!(!adam.first.track_op() && !adam.second.track_op());
    }

    #[test]
    fn restored_moments_continue_to_the_bit_and_grown_rows_are_zero() {
        let start = params(&[("t", &[1.0, 2.0], &[2, 1])]);
        let mut adam = optimizer(&start, AdamWSettings::new(0.1, 1.0));
        let gradient = Tensor::new(&[0.3f32, -0.7], &Device::Cpu).unwrap();
        adam.step(&gradient, 0.76, 0.01, None).unwrap();
        let (moments, weights) = (adam.moments().unwrap(), values(start.get("t").unwrap()));
        adam.step(&gradient, 0.76, 0.01, None).unwrap();

        let again = params(&[("t", &weights, &[2, 1])]);
        let mut resumed = optimizer(&again, AdamWSettings::new(0.1, 1.0));
        resumed.restore(&moments, 1).unwrap();
        resumed.step(&gradient, 0.76, 0.01, None).unwrap();
        assert_eq!(values(start.get("t").unwrap()), values(again.get("t").unwrap()));

        let grown = params(&[("t", &[1.0, 2.0, 9.0], &[3, 1])]);
        let mut wider = optimizer(&grown, AdamWSettings::new(0.1, 1.0));
        wider.restore(&moments, 1).unwrap();
        let first = values(&wider.moments().unwrap()["m.t"]);
        assert_eq!(first, [values(&moments["m.t"]), vec![0.0]].concat());

        let other = params(&[("t", &[1.0, 2.0], &[1, 2])]);
        let error = optimizer(&other, AdamWSettings::new(0.1, 1.0)).restore(&moments, 1).unwrap_err();
        assert!(error.to_string().contains("m.t"), "{error}");
    }
}
