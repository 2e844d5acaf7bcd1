//! A step of AdamW over flat vectors, in one pass.

use candle_core::{Device, Result, Tensor};

use super::cuda;
use super::host::{has_fused_form, host_values};

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

impl AdamWStep {
    /// New weights, first and second moments of `[weights, first, second, gradient, decays]`, `[P]` each; `decays` is 1
    /// where a weight decays, else 0.
    pub fn apply(self, inputs: [&Tensor; 5]) -> Result<[Tensor; 3]> {
        if !has_fused_form(inputs[0]) {
            self.apply_plain(inputs)
        } else if inputs[0].device().is_cpu() {
            self.apply_on_host(inputs)
        } else {
            let n = inputs[0].elem_count();
            let outputs = cuda::over(inputs, |machine, inputs| self.launch(machine, inputs))?;
            Ok(outputs.map(|storage| cuda::tensor(storage, n)))
        }
    }

    /// [`apply`](Self::apply) in tensor operations, on any device: the oracle of the others.
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

    fn apply_on_host(self, inputs: [&Tensor; 5]) -> Result<[Tensor; 3]> {
        let values = inputs.map(host_values);
        let [weights, first, second, gradient, decays] = &values;
        let (mut weights, mut first, mut second) =
            (weights.slice()?.to_vec(), first.slice()?.to_vec(), second.slice()?.to_vec());
        let [clip, beta1, beta2] = [self.clip, self.beta1, self.beta2].map(|number| number as f32);
        let [new1, new2] = [1.0 - self.beta1, 1.0 - self.beta2].map(|number| number as f32);
        let [rate, epsilon, decay] = [self.rate, self.epsilon, self.decay].map(|number| number as f32);
        let correction = (1.0 / self.correction2) as f32;
        let state = weights.iter_mut().zip(&mut first).zip(&mut second);
        let fixed = gradient.slice()?.iter().zip(decays.slice()?);
        for (((weight, first), second), (gradient, decays)) in state.zip(fixed) {
            let slope = gradient * clip;
            *first = *first * beta1 + slope * new1;
            *second = *second * beta2 + slope * slope * new2;
            let denominator = (*second * correction).sqrt() + epsilon;
            *weight = *weight * (1.0 - decays * decay) - *first * rate / denominator;
        }
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, inputs[0].elem_count(), &Device::Cpu);
        Ok([tensor(weights)?, tensor(first)?, tensor(second)?])
    }
}

#[cfg(test)]
mod tests {
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
        let inputs = [&weights, &first, &second.abs().unwrap(), &gradient, &decays];
        let (fused, plain) = (step.apply(inputs).unwrap(), step.apply_plain(inputs).unwrap());
        for (fused, plain) in fused.iter().zip(&plain) {
            assert_close(&values(fused), &values(plain), 1e-6);
        }
    }
}
