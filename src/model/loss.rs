//! The one loss: the quantile losses of all targets, weighted and put together.
//!
//! Two settings of it are in use. pytorch-forecasting's ([`MultiLossOptions::default`] with `doubled`) is twice
//! the pinball loss in the targets' own units, over valid steps, summed over targets; the recorded parity values
//! hold it. Training's (`train::objective`) is the plain pinball loss in scaled units, over observed points, as
//! a weighted mean over targets. Where everything is observed and the target weights are equal, the first is
//! 2 x (number of targets) times the second; a test below holds that.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::tft::TftOutput;
use crate::ops::quantile_loss::{QuantileLossOptions, quantile_loss};

pub use crate::ops::quantile_loss::DivideBy;

/// How a [`multi_quantile_loss`] counts.
#[derive(Clone, Debug, Default)]
pub struct MultiLossOptions {
    /// Twice the pinball loss (pytorch-forecasting's choice).
    pub doubled: bool,
    /// What a target's summed costs are divided by.
    pub divide_by: DivideBy,
    /// How the targets' losses become one.
    pub over_targets: OverTargets,
    /// A factor per target, not negative; `None`: 1 each.
    pub target_weights: Option<Vec<f64>>,
    pub sample_weights: SampleWeights,
    /// The valid forecast steps of each sample; `None`: all.
    pub decoder_lengths: Option<Vec<usize>>,
    /// Quantiles of its own for every target, in place of those given for all.
    pub target_quantiles: Option<Vec<Vec<f64>>>,
}

/// How the losses of the targets become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverTargets {
    /// `sum(weight * loss)`: another target makes the loss larger (pytorch-forecasting's choice).
    #[default]
    Sum,
    /// `sum(weight * loss) / sum(weight)`. A target that counts nothing in this batch (no weight on any step) keeps
    /// its part of the divisor: who else is observed does not change what a point weighs.
    WeightedMean,
}

/// A factor per forecast step, `[B, H]`, not negative.
#[derive(Clone, Debug, Default)]
pub enum SampleWeights {
    /// 1 everywhere.
    #[default]
    None,
    /// The same for all targets.
    Shared(Tensor),
    /// Each target its own, such as which of its points were observed.
    PerTarget(Vec<Tensor>),
}

impl From<Option<Tensor>> for SampleWeights {
    fn from(weights: Option<Tensor>) -> Self {
        weights.map_or(Self::None, Self::Shared)
    }
}

impl SampleWeights {
    fn of_target(&self, target: usize) -> Option<&Tensor> {
        match self {
            Self::None => None,
            Self::Shared(weights) => Some(weights),
            Self::PerTarget(weights) => weights.get(target),
        }
    }
}

/// The loss of a batch.
pub struct MultiLoss {
    /// The targets together, a scalar.
    pub total: Tensor,
    /// Each target's own loss before its weight, scalars.
    pub per_target: Vec<Tensor>,
}

/// The quantile losses of all targets and what they come to together, as `options` say.
///
/// - Shapes: a forecast `[B, H, Q]` and a target `[B, H]` each, with a `Q` of its own if `options` says so.
/// - Units: those of the targets, so a target in large units dominates unless it is scaled or weighted.
/// - Errors: numbers of targets, weights or shapes that do not fit; target weights that sum to nothing.
pub fn multi_quantile_loss(
    output: &TftOutput,
    targets: &[Tensor],
    quantiles: &[f64],
    options: &MultiLossOptions,
) -> Result<MultiLoss> {
    let factors = target_factors(output.prediction.len(), targets.len(), options)?;
    let mut per_target = Vec::with_capacity(targets.len());
    let mut total: Option<Tensor> = None;
    for (i, (forecast, target)) in output.prediction.iter().zip(targets).enumerate() {
        let quantiles = options.target_quantiles.as_ref().map_or(quantiles, |each| &each[i]);
        let single = QuantileLossOptions {
            doubled: options.doubled,
            divide_by: options.divide_by,
            sample_weights: options.sample_weights.of_target(i),
            lengths: options.decoder_lengths.as_deref(),
        };
        let loss =
            quantile_loss(forecast, target, quantiles, &single).with_context(|| format!("target {i}"))?;
        let weighted = (&loss * factors[i])?;
        total = Some(match total {
            Some(total) => (total + weighted)?,
            None => weighted,
        });
        per_target.push(loss);
    }
    Ok(MultiLoss { total: total.context("no target")?, per_target })
}

/// What each target's loss is multiplied by, once all numbers are seen to fit.
fn target_factors(n_forecasts: usize, n_targets: usize, options: &MultiLossOptions) -> Result<Vec<f64>> {
    ensure!(n_forecasts == n_targets, "{n_forecasts} forecast targets, {n_targets} observed ones");
    if let SampleWeights::PerTarget(weights) = &options.sample_weights {
        ensure!(weights.len() == n_targets, "{} sample weights for {n_targets} targets", weights.len());
    }
    if let Some(each) = &options.target_quantiles {
        ensure!(each.len() == n_targets, "quantiles for {} targets, not {n_targets}", each.len());
    }
    let weights = options.target_weights.clone().unwrap_or_else(|| vec![1.0; n_targets]);
    ensure!(weights.len() == n_targets, "{} target weights for {n_targets} targets", weights.len());
    match options.over_targets {
        OverTargets::Sum => Ok(weights),
        OverTargets::WeightedMean => {
            let sum: f64 = weights.iter().sum();
            ensure!(sum > 0.0 && sum.is_finite(), "the target weights sum to {sum}");
            Ok(weights.iter().map(|weight| weight / sum).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, noise, values};

    const QUANTILES: [f64; 2] = [0.1, 0.5];

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    fn output(prediction: Vec<Tensor>) -> TftOutput {
        let nothing = tensor(&[0.0], &[1]);
        TftOutput {
            prediction,
            encoder_attention: nothing.clone(),
            decoder_attention: nothing.clone(),
            static_variables: nothing.clone(),
            encoder_variables: nothing.clone(),
            decoder_variables: nothing,
        }
    }

    /// Two targets of one sample and two steps, all forecasts 0. Costs per step (quantiles 0.1 and 0.5):
    /// target 0: truths 1, -1: 0.1 + 0.5 and 0.9 + 0.5; target 1: truths 4, -0.5: 0.4 + 2 and 0.45 + 0.25.
    #[track_caller]
    fn case(options: &MultiLossOptions, total: f32, per_target: [f32; 2], gradients: [[f32; 4]; 2]) {
        let vars = [0, 1].map(|_| Var::from_tensor(&tensor(&[0.0; 4], &[1, 2, 2])).unwrap());
        let output = output(vars.iter().map(|var| var.as_tensor().clone()).collect());
        let targets = [tensor(&[1.0, -1.0], &[1, 2]), tensor(&[4.0, -0.5], &[1, 2])];
        let loss = multi_quantile_loss(&output, &targets, &QUANTILES, options).unwrap();
        assert_close(&[loss.total.to_scalar().unwrap()], &[total], 1e-6);
        let own: Vec<f32> = loss.per_target.iter().map(|loss| loss.to_scalar().unwrap()).collect();
        assert_close(&own, &per_target, 1e-6);
        let grads = loss.total.backward().unwrap();
        for (var, expected) in vars.iter().zip(gradients) {
            assert_close(&values(grads.get(var).unwrap()), &expected, 1e-6);
        }
    }

    #[test]
    fn the_librarys_setting_by_hand() {
        // Doubled, over 2 steps and 2 quantiles, summed with weights 1 and 3: a slope of 2 / 4 times the level.
        let options = MultiLossOptions {
            doubled: true,
            target_weights: Some(vec![1.0, 3.0]),
            ..MultiLossOptions::default()
        };
        let (first, second) = (2.0 * 2.0 / 4.0, 2.0 * 3.1 / 4.0);
        let slopes = [[-0.05, -0.25, 0.45, 0.25], [-0.15, -0.75, 1.35, 0.75]];
        case(&options, first + 3.0 * second, [first, second], slopes);
    }

    #[test]
    fn trainings_setting_by_hand() {
        // Of target 1 only the first step was observed; the mean is over what was observed, weights 1 and 3.
        let observed = vec![tensor(&[1.0, 1.0], &[1, 2]), tensor(&[1.0, 0.0], &[1, 2])];
        let options = MultiLossOptions {
            divide_by: DivideBy::Weights,
            over_targets: OverTargets::WeightedMean,
            target_weights: Some(vec![1.0, 3.0]),
            sample_weights: SampleWeights::PerTarget(observed),
            ..MultiLossOptions::default()
        };
        let (first, second) = (2.0 / 4.0, 2.4 / 2.0);
        let slopes = [
            [-0.1 / 16.0, -0.5 / 16.0, 0.9 / 16.0, 0.5 / 16.0],
            [-0.1 * 3.0 / 8.0, -0.5 * 3.0 / 8.0, 0.0, 0.0],
        ];
        case(&options, (first + 3.0 * second) / 4.0, [first, second], slopes);
    }

    #[test]
    fn a_target_that_was_not_observed_leaves_the_others_alone() {
        let options = |seen: [f32; 2]| MultiLossOptions {
            divide_by: DivideBy::Weights,
            over_targets: OverTargets::WeightedMean,
            sample_weights: SampleWeights::PerTarget(vec![
                tensor(&[1.0; 2], &[1, 2]),
                tensor(&seen, &[1, 2]),
            ]),
            ..MultiLossOptions::default()
        };
        let own = [-0.1 / 8.0, -0.5 / 8.0, 0.9 / 8.0, 0.5 / 8.0];
        case(&options([1.0, 1.0]), (0.5 + 0.775) / 2.0, [0.5, 0.775], [own; 2]);
        case(&options([0.0, 0.0]), 0.25, [0.5, 0.0], [own, [0.0; 4]]);
    }

    #[test]
    fn both_settings_are_one_loss_up_to_the_stated_factor() {
        let vars = [0, 1, 2].map(|i| Var::from_tensor(&noise(&format!("forecast {i}"), &[3, 4, 2])).unwrap());
        let output = output(vars.iter().map(|var| var.as_tensor().clone()).collect());
        let targets = [0, 1, 2].map(|i| noise(&format!("target {i}"), &[3, 4]));
        let golden = MultiLossOptions { doubled: true, ..MultiLossOptions::default() };
        let ours = MultiLossOptions {
            divide_by: DivideBy::Weights,
            over_targets: OverTargets::WeightedMean,
            target_weights: Some(vec![2.5; 3]),
            sample_weights: SampleWeights::PerTarget(vec![tensor(&[1.0; 12], &[3, 4]); 3]),
            ..MultiLossOptions::default()
        };
        let [golden, ours] = [golden, ours]
            .map(|options| multi_quantile_loss(&output, &targets, &QUANTILES, &options).unwrap().total);
        let factor = 2.0 * 3.0;
        assert_close(&values(&golden), &values(&(&ours * factor).unwrap()), 1e-6);
        let (golden, ours) = (golden.backward().unwrap(), ours.backward().unwrap());
        for var in &vars {
            let scaled = (ours.get(var).unwrap() * factor).unwrap();
            assert_close(&values(golden.get(var).unwrap()), &values(&scaled), 1e-6);
        }
    }

    #[track_caller]
    fn refused(options: MultiLossOptions, expected: &str) {
        let output = output(vec![noise("f", &[1, 2, 2])]);
        let error = multi_quantile_loss(&output, &[noise("t", &[1, 2])], &QUANTILES, &options);
        let error = error.err().expect("a refusal");
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    }

    #[test]
    fn misfits_are_refused() {
        let plain = MultiLossOptions::default;
        refused(MultiLossOptions { target_weights: Some(vec![1.0; 2]), ..plain() }, "2 target weights for 1");
        let sample_weights = SampleWeights::PerTarget(vec![]);
        refused(MultiLossOptions { sample_weights, ..plain() }, "0 sample weights for 1");
        let over_targets = OverTargets::WeightedMean;
        refused(MultiLossOptions { over_targets, target_weights: Some(vec![0.0]), ..plain() }, "sum to 0");
        let none = multi_quantile_loss(&output(vec![]), &[noise("t", &[1, 2])], &QUANTILES, &plain());
        assert!(none.is_err());
    }

    #[test]
    fn every_target_may_have_quantiles_of_its_own() {
        let output = output(vec![tensor(&[1.0], &[1, 1, 1]), tensor(&[1.0, 3.0], &[1, 1, 2])]);
        let targets = [tensor(&[2.0], &[1, 1]), tensor(&[2.0], &[1, 1])];
        let loss = |quantiles: &[&[f64]]| {
            let target_quantiles = Some(quantiles.iter().map(|list| list.to_vec()).collect());
            let options = MultiLossOptions { target_quantiles, ..Default::default() };
            multi_quantile_loss(&output, &targets, &[], &options)
        };
        // The median misses by 1 from below; 0.1 by 1 from below and 0.8 by 1 from above cost 0.1 and 0.2.
        let total = loss(&[&[0.5], &[0.1, 0.8]]).unwrap().total.to_scalar::<f32>().unwrap();
        assert!((total - 0.65).abs() < 1e-6, "{total}");
        assert!(loss(&[&[0.5]]).is_err_and(|error| error.to_string().contains("1 targets, not 2")));
        assert!(loss(&[&[0.5], &[0.5]]).is_err());
    }
}
