//! A step of AdamW over flat vectors, in one pass and in place, with the mean of the weights where there is one.

use candle_core::{DType, Result, Tensor, bail};

use super::cuda;
use super::cuda::machine::{Machine, Memory};
use super::host::{change, host_values};

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
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

/// Numbers of a step in the precision of the weights.
#[derive(Clone, Copy)]
struct Factors {
    clip: f32,
    betas: [f32; 2],
    /// One minus the betas.
    news: [f32; 2],
    rate: f32,
    /// One over the second moment's correction.
    correction: f32,
    epsilon: f32,
    decay: f32,
}

/// The weights of a step, block by block in the order of the vectors.
pub struct InPlace<'a> {
    pub weights: Vec<&'a Tensor>,
    /// The means of the weights, in the same order, and the share of them that stays.
    pub means: Option<(Vec<&'a Tensor>, f64)>,
    /// First and second, `[P]`; they are changed, too.
    pub moments: [&'a Tensor; 2],
    pub gradient: &'a Tensor,
    /// 1 where a weight decays, else 0.
    pub decays: &'a Tensor,
}

impl AdamWStep {
    /// New weights, first and second moments of `[weights, first, second, gradient, decays]`, `[P]` each, in tensor
    /// operations on any device; `decays` is 1 where a weight decays, else 0. The oracle of the step in place.
    pub fn apply_plain(
        self,
        [weights, first, second, gradient, decays]: [&Tensor; 5],
    ) -> Result<[Tensor; 3]> {
        let gradient = (gradient * self.clip)?;
        let first = ((first * self.beta1)? + (&gradient * (1.0 - self.beta1))?)?;
        let second = ((second * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = ((&second / self.correction2)?.sqrt()? + self.epsilon)?;
        let update = ((&first * self.rate)? / denominator)?;
        let kept = (1.0 - (decays * self.decay)?)?;
        Ok([((weights * kept)? - update)?, first, second])
    }

    /// The step where everything lies: nothing is copied, and a mean takes in each weight while it is at hand.
    ///
    /// - Errors: anything but contiguous f32; vectors that do not fit the weights.
    pub fn apply_in_place(self, state: &InPlace<'_>) -> Result<()> {
        state.ensure_fits()?;
        if state.gradient.device().is_cuda() {
            return self.apply_on_gpu(state);
        }
        let factors = self.factors();
        let (gradient, decays) = (host_values(state.gradient), host_values(state.decays));
        let (gradient, decays) = (gradient.slice()?, decays.slice()?);
        change(state.moments[0], |first| {
            change(state.moments[1], |second| {
                let mut from = 0;
                for (i, weights) in state.weights.iter().enumerate() {
                    let own = from..from + weights.elem_count();
                    from = own.end;
                    let fixed = (&gradient[own.clone()], &decays[own.clone()]);
                    let moments = (&mut first[own.clone()], &mut second[own]);
                    change(weights, |weights| {
                        factors.step(weights, moments, fixed);
                        match &state.means {
                            Some((means, kept)) => change(means[i], |mean| take_in(mean, weights, *kept)),
                            None => Ok(()),
                        }
                    })?;
                }
                Ok(())
            })
        })
    }

    fn apply_on_gpu(self, state: &InPlace<'_>) -> Result<()> {
        let kept = state.means.as_ref().map_or(1.0, |(_, kept)| *kept);
        state.on_gpu(&[], |machine, state, []| {
            let step = machine.upload(&cuda::adamw::words(self, kept))?;
            cuda::adamw::launch(machine, state, step)
        })
    }

    fn factors(self) -> Factors {
        Factors {
            clip: self.clip as f32,
            betas: [self.beta1, self.beta2].map(|beta| beta as f32),
            news: [self.beta1, self.beta2].map(|beta| (1.0 - beta) as f32),
            rate: self.rate as f32,
            correction: (1.0 / self.correction2) as f32,
            epsilon: self.epsilon as f32,
            decay: self.decay as f32,
        }
    }
}

/// What decides about a step on a GPU, where nobody waits to be asked, and what follows for its numbers.
pub struct Decision<'a> {
    pub rule: Rule,
    /// What is minimised, `[]`.
    pub loss: &'a Tensor,
    /// `[2]`: the steps behind the moments and behind the means; a step that is taken is counted here.
    pub counts: &'a Tensor,
    pub plan: StepPlan,
}

/// What the host says of a step.
#[derive(Clone, Copy, Debug)]
pub enum StepPlan {
    Now {
        learning_rate: f64,
        /// The share of the means that stays at most.
        mean_decay: f64,
    },
    /// The same as [`Rule::words`], at an address on the device.
    At(u64),
}

/// The constants of AdamW and of its clipping.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Share of a weight that decays per step, times the learning rate.
    pub weight_decay: f64,
    /// Largest 2-norm of the gradient; longer ones are shortened to it.
    pub clip: f64,
}

impl Decision<'_> {
    /// Takes a step on a GPU unless loss or gradient are not finite: then nothing moves. `[2]`: the loss and the square of
    /// the gradient's 2-norm, for whoever wants to know afterwards.
    ///
    /// - Errors: anything but contiguous f32 on a GPU; vectors that do not fit the weights.
    pub fn apply(&self, state: &InPlace<'_>) -> Result<Tensor> {
        state.ensure_fits()?;
        let told = Tensor::zeros(2, DType::F32, self.loss.device())?;
        state.on_gpu(&[self.loss, self.counts, &told], |machine, state, [loss, counts, told]| {
            let step = self.launch(machine, state, [loss, counts, told])?;
            cuda::adamw::launch(machine, state, step)
        })?;
        Ok(told)
    }
}

impl InPlace<'_> {
    /// Runs launches over all that the step changes, and over tensors beside it.
    fn on_gpu<const N: usize>(
        &self,
        beside: &[&Tensor; N],
        work: impl FnOnce(&mut dyn Machine, &cuda::adamw::State<'_>, [Memory; N]) -> Result<()>,
    ) -> Result<()> {
        let InPlace { weights, means, moments, gradient, decays } = self;
        let means = means.as_ref().map_or(&[][..], |(means, _)| means);
        let vectors = [moments[0], moments[1], *gradient, *decays];
        let all = vectors.into_iter().chain(beside.iter().copied());
        let all: Vec<&Tensor> = all.chain(weights.iter().copied()).chain(means.iter().copied()).collect();
        cuda::in_place(&all, |machine, all| {
            let (vectors, rest) = all.split_at(4);
            let (beside, blocks) = rest.split_at(N);
            let (weights, means) = blocks.split_at(weights.len());
            let state = cuda::adamw::State { vectors: std::array::from_fn(|i| vectors[i]), weights, means };
            work(machine, &state, std::array::from_fn(|i| beside[i]))
        })
    }

    fn ensure_fits(&self) -> Result<()> {
        let n: usize = self.weights.iter().map(|weights| weights.elem_count()).sum();
        let vectors = [self.gradient, self.decays, self.moments[0], self.moments[1]];
        let lens = vectors.map(Tensor::elem_count);
        let means_fit = self.means.as_ref().is_none_or(|(means, _)| {
            let len = |tensor: &&Tensor| tensor.elem_count();
            means.iter().map(len).eq(self.weights.iter().map(len))
        });
        if lens != [n; 4] || !means_fit {
            bail!("a step over {n} weights with vectors of {lens:?} or other means");
        }
        Ok(())
    }
}

impl Factors {
    fn step(
        self,
        weights: &mut [f32],
        (first, second): (&mut [f32], &mut [f32]),
        (gradient, decays): (&[f32], &[f32]),
    ) {
        let state = weights.iter_mut().zip(first).zip(second);
        for (((weight, first), second), (gradient, decays)) in state.zip(gradient.iter().zip(decays)) {
            let slope = gradient * self.clip;
            *first = *first * self.betas[0] + slope * self.news[0];
            *second = *second * self.betas[1] + slope * slope * self.news[1];
            let denominator = (*second * self.correction).sqrt() + self.epsilon;
            *weight = *weight * (1.0 - decays * self.decay) - *first * self.rate / denominator;
        }
    }
}

/// `mean = kept mean + (1 - kept) weights`
fn take_in(mean: &mut [f32], weights: &[f32], kept: f64) -> Result<()> {
    let (kept, new) = (kept as f32, (1.0 - kept) as f32);
    for (mean, weight) in mean.iter_mut().zip(weights) {
        *mean = *mean * kept + *weight * new;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::check::{assert_close, noise, values};

    #[test]
    fn the_forms_agree() {
        let step = AdamWStep {
            clip: 0.7,
            beta1: 0.9,
            beta2: 0.999,
            rate: 0.02,
            correction2: 0.01,
            epsilon: 1e-8,
            decay: 0.001,
        };
        let [weights, first, second, gradient] = ["w", "m", "v", "g"].map(|name| noise(name, &[301]));
        let decays: Vec<f32> = (0..301).map(|i| (i % 2) as f32).collect();
        let decays = Tensor::new(decays, &Device::Cpu).unwrap();
        let second = second.abs().unwrap();
        let [new, first_after, second_after] =
            step.apply_plain([&weights, &first, &second, &gradient, &decays]).unwrap();
        let mean = noise("mean", &[301]);
        let mean_after = ((&mean * 0.9).unwrap() + (&new * 0.1).unwrap()).unwrap();

        // The same as parameters of 1, 100 and 200 weights.
        let places = [(0, 1), (1, 100), (101, 200)];
        let cut = |all: &Tensor| places.map(|(from, n)| all.narrow(0, from, n).unwrap().copy().unwrap());
        let (own, means) = (cut(&weights), cut(&mean));
        let moments = [&first, &second].map(|moment| moment.copy().unwrap());
        let (all, all_means) = (own.iter().collect::<Vec<_>>(), means.iter().collect::<Vec<_>>());
        let state = |means| InPlace {
            weights: all.clone(),
            means,
            moments: moments.each_ref(),
            gradient: &gradient,
            decays: &decays,
        };
        step.apply_in_place(&state(Some((all_means.clone(), 0.9)))).unwrap();
        let joined = |parts: &[&Tensor]| values(&Tensor::cat(parts, 0).unwrap());
        assert_close(&joined(&all), &values(&new), 1e-6);
        assert_close(&joined(&all_means), &values(&mean_after), 1e-6);
        assert_close(&values(&moments[0]), &values(&first_after), 1e-6);
        assert_close(&values(&moments[1]), &values(&second_after), 1e-6);
        assert!(
            step.apply_in_place(&state(Some((all_means[..2].to_vec(), 0.9)))).is_err(),
            "a mean is missing"
        );
    }
}
