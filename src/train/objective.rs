//! What training minimises: the one loss ([`multi_quantile_loss`]) in its training setting, and what it says of
//! each target.
//!
//! The setting: plain pinball loss, in scaled units, mean over the points that were truly observed, weighted mean
//! over targets with the config's `[model.target_weights]`. Scaled units make a point of every target worth about
//! the same whatever its unit; the weights say where that is not wanted. What a scaled loss is in the target's own
//! unit is measured beside it and never minimised.

use anyhow::Result;
use candle_core::Tensor;

use super::tally::{BatchMeans, TargetTally};
use crate::config::ModelConfig;
use crate::dataset::{Batch, Preprocessing};
use crate::model::{
    DivideBy, MultiLoss, MultiLossOptions, OverTargets, SampleWeights, TftOutput, multi_quantile_loss,
};

/// Numbers told per target and batch: its two mean losses and its observed points.
const N_TOLD: usize = 3;

/// The loss of a training, for the targets of a lineage.
#[derive(Clone, Debug)]
pub struct Objective {
    targets: Vec<String>,
    quantiles: Vec<f64>,
    /// One per target, of mean 1.
    weights: Vec<f64>,
}

/// A batch, measured.
pub struct Measured {
    /// What is minimised, a scalar.
    pub loss: Tensor,
    /// `[3 N]`: scaled mean loss, mean loss in the own unit and observed points of each target; no gradient.
    pub per_target: Tensor,
}

impl Objective {
    /// The loss for the targets of `preprocessing` with the weights of `model`.
    pub fn new(preprocessing: &Preprocessing, model: &ModelConfig) -> Self {
        Self {
            targets: preprocessing.targets.clone(),
            quantiles: preprocessing.quantiles.clone(),
            weights: model.target_weights_of(&preprocessing.targets),
        }
    }

    /// Numbers of [`Measured::per_target`].
    pub fn n_told(&self) -> usize {
        N_TOLD * self.targets.len()
    }

    /// Measures the forecasts of a batch.
    ///
    /// - Errors: the network's targets or quantiles are not those of the objective.
    pub fn measure(&self, output: &TftOutput, batch: &Batch) -> Result<Measured> {
        let loss = self.loss(output, batch)?;
        let per_target = self.per_target(&loss, output, batch)?;
        Ok(Measured { loss: loss.total, per_target })
    }

    fn loss(&self, output: &TftOutput, batch: &Batch) -> Result<MultiLoss> {
        let options = MultiLossOptions {
            divide_by: DivideBy::Weights,
            over_targets: OverTargets::WeightedMean,
            target_weights: Some(self.weights.clone()),
            sample_weights: SampleWeights::PerTarget(batch.weights.clone()),
            ..MultiLossOptions::default()
        };
        multi_quantile_loss(output, &batch.targets, &self.quantiles, &options)
    }

    /// The same loss once more, every point worth what one scaled unit is on its server: the own unit.
    fn per_target(&self, scaled: &MultiLoss, output: &TftOutput, batch: &Batch) -> Result<Tensor> {
        let in_own_unit = |(weights, unit): (&Tensor, &Tensor)| weights.broadcast_mul(unit);
        let worth = batch.weights.iter().zip(&batch.units).map(in_own_unit);
        let options = MultiLossOptions {
            sample_weights: SampleWeights::PerTarget(worth.collect::<candle_core::Result<_>>()?),
            ..MultiLossOptions::default()
        };
        let own = multi_quantile_loss(output, &batch.targets, &self.quantiles, &options)?;
        let mut told = Vec::with_capacity(N_TOLD * self.targets.len());
        for ((scaled, own), weights) in scaled.per_target.iter().zip(&own.per_target).zip(&batch.weights) {
            let n_points = weights.sum_all()?;
            // From the mean over all points to the mean over those observed; without one, both are 0.
            let n_all = weights.elem_count() as f64;
            let own = ((own.detach() * n_all)? / n_points.maximum(1.0)?)?;
            told.extend([scaled.detach(), own, n_points]);
        }
        Ok(Tensor::stack(&told, 0)?)
    }

    /// Adds what [`Measured::per_target`] told of a batch to the tallies of the epoch, which begin here if there
    /// are none yet.
    pub fn count(&self, tallies: &mut Vec<TargetTally>, told: &[f32]) {
        if tallies.is_empty() {
            let names = self.targets.iter().zip(&self.weights);
            tallies.extend(names.map(|(name, weight)| TargetTally::new(name, *weight)));
        }
        for (tally, told) in tallies.iter_mut().zip(told.chunks_exact(N_TOLD)) {
            let (scaled, own) = (f64::from(told[0]), f64::from(told[1]));
            tally.add(BatchMeans { n_points: told[2] as u64, scaled, own });
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::config::Config;
    use crate::dataset::{Dataset, SampleKey};
    use crate::model::{Mode, Params, Tft};
    use crate::ops::check::{assert_close, noise, values};
    use crate::schema::Metric;
    use crate::stats;
    use crate::train::head::order_quantiles;
    use crate::window::split::plan_split;
    use crate::window::{Grid, Server};

    const N_STEPS: usize = 240;
    const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

    fn config() -> Config {
        let mut config = Config {
            metrics: vec![Metric::new("iowait", "%"), Metric::new("net", "MB/s")],
            ..Config::default()
        };
        config.model.targets = vec!["iowait".into(), "net".into()];
        config.model.quantiles = QUANTILES.to_vec();
        (config.model.encoder_length, config.model.horizon) = (12, 4);
        (config.model.hidden_size, config.model.hidden_continuous_size) = (8, 4);
        (config.model.attention_heads, config.model.dropout) = (2, 0.0);
        config
    }

    /// Three servers: iowait of about one per cent beside a network metric a million times as large, times `unit`.
    fn dataset(unit: f32) -> Dataset {
        let names = ["db1", "db2", "web1"];
        let cells = (0..names.len()).flat_map(|server| (0..N_STEPS).map(move |step| (server, step)));
        let value = |(server, step): (usize, usize)| {
            let (size, phase) = (1.0 + server as f32, step as f32 * 0.26);
            let noise = ((step * 7919 + server * 31) % 101) as f32 / 101.0 - 0.5;
            let net = 1e6 * size * (2.0 + (phase + 1.0).cos() + 0.3 * noise);
            [1.0 + 0.3 * size * phase.sin() + 0.2 * noise, unit * net]
        };
        let server = |name: &&str| Server { name: (*name).into(), profile: "generic".into() };
        let mut grid = Grid {
            servers: names.iter().map(server).collect(),
            metrics: vec!["iowait".into(), "net".into()],
            statuses: vec![],
            start_ms: 1_704_067_200_000,
            step_secs: 300,
            n_steps: N_STEPS,
            values: cells.flat_map(value).collect(),
            status: vec![0; names.len() * N_STEPS],
        };
        for step in [61, 62, N_STEPS + 60] {
            grid.values[step * 2 + 1] = f32::NAN; // holes of `net` alone, inside the batch below
        }
        let split = plan_split(N_STEPS, 12, 4, 20).unwrap().split;
        let fitted = Preprocessing::fit(&grid, &split, &config(), None).unwrap();
        Dataset::new(grid, fitted, 6).unwrap()
    }

    /// Samples of all servers; those at 60 have holes in their targets.
    fn keys(cutoffs: &[u32]) -> Vec<SampleKey> {
        let of_server = |server| cutoffs.iter().map(move |cutoff| SampleKey { server, cutoff: *cutoff });
        (0..3).flat_map(of_server).collect()
    }

    fn objective(dataset: &Dataset) -> Objective {
        Objective::new(dataset.preprocessing(), &config().model)
    }

    fn forecasts(n_samples: usize) -> (Vec<Var>, TftOutput) {
        let var = |name: &str| Var::from_tensor(&noise(name, &[n_samples, 4, QUANTILES.len()])).unwrap();
        let vars = vec![var("iowait"), var("net")];
        let nothing = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        let output = TftOutput {
            prediction: vars.iter().map(|var| var.as_tensor().clone()).collect(),
            attention: None,
            static_variables: nothing.clone(),
            encoder_variables: nothing.clone(),
            decoder_variables: nothing,
        };
        (vars, output)
    }

    #[test]
    fn a_whole_batch_of_equal_weights_is_the_golden_loss_over_twice_the_targets() {
        let dataset = dataset(1.0);
        let keys = keys(&[100, 120]);
        let batch = dataset.batch(&keys, &Device::Cpu).unwrap();
        assert!(batch.weights.iter().all(|weights| values(weights).iter().all(|weight| *weight == 1.0)));
        let (vars, output) = forecasts(keys.len());
        let ours = objective(&dataset).measure(&output, &batch).unwrap().loss;
        let golden = MultiLossOptions { doubled: true, ..MultiLossOptions::default() };
        let golden = multi_quantile_loss(&output, &batch.targets, &QUANTILES, &golden).unwrap().total;
        let factor = 2.0 * vars.len() as f64;
        assert_close(&values(&golden), &values(&(&ours * factor).unwrap()), 1e-5);
        let (golden, ours) = (golden.backward().unwrap(), ours.backward().unwrap());
        for var in &vars {
            let scaled = (ours.get(var).unwrap() * factor).unwrap();
            assert_close(&values(golden.get(var).unwrap()), &values(&scaled), 1e-6);
        }
    }

    #[test]
    fn each_target_is_told_in_scaled_units_and_in_its_own() {
        let dataset = dataset(1.0);
        let keys = keys(&[60, 100]);
        let batch = dataset.batch_with_strangers(&keys, |at| at == 3, &Device::Cpu).unwrap();
        let (_, output) = forecasts(keys.len());
        let objective = objective(&dataset);
        let told = values(&objective.measure(&output, &batch).unwrap().per_target);
        for target in 0..2 {
            let (mut scaled, mut own, mut n_points) = (0.0, 0.0, 0u64);
            let forecast = output.prediction[target].to_vec3::<f32>().unwrap();
            let truths = batch.targets[target].to_vec2::<f32>().unwrap();
            for (at, key) in keys.iter().enumerate() {
                let unit = batch.units[target].to_vec2::<f32>().unwrap()[at][0];
                for (h, row) in forecast[at].iter().enumerate() {
                    if dataset.target_value(*key, target, h).is_some() {
                        let loss = stats::pinball(row, truths[at][h], &QUANTILES);
                        (scaled, own, n_points) = (scaled + loss, own + loss * f64::from(unit), n_points + 1);
                    }
                }
            }
            let told = &told[3 * target..];
            assert_eq!(told[2] as u64, n_points);
            let close = |got: f32, sum: f64| {
                let expected = sum / n_points as f64;
                assert!((f64::from(got) / expected - 1.0).abs() < 1e-5, "{got}, expected {expected}");
            };
            close(told[0], scaled);
            close(told[1], own);
        }
        assert_eq!((told[2], told[5]), (24.0, 21.0));
        let mut tallies = Vec::new();
        objective.count(&mut tallies, &told);
        objective.count(&mut tallies, &told);
        assert_eq!((tallies[1].name.as_str(), tallies[1].n_points, tallies[1].weight), ("net", 42, 1.0));
        assert!((tallies[1].losses(String::new()).loss_own_unit / f64::from(told[4]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_point_is_scaled_back_by_what_it_was_scaled_with() {
        let dataset = dataset(1.0);
        let keys = keys(&[100]);
        let batch = dataset.batch_with_strangers(&keys, |at| at == 0, &Device::Cpu).unwrap();
        let scaler = &dataset.preprocessing().scaler;
        let units: Vec<f32> = values(&batch.units[1]);
        assert_eq!(
            units,
            [scaler.profiles[0].scale[1], scaler.servers[1].scale[1], scaler.servers[2].scale[1]]
        );
    }

    struct Bench {
        dataset: Dataset,
        params: Params,
        output: TftOutput,
        batch: Batch,
    }

    /// A young network and its forecast of one batch.
    fn bench(unit: f32) -> Bench {
        let dataset = dataset(unit);
        let tft = dataset.preprocessing().tft_config(&config().model);
        let params = Params::init(&tft, 5, &Device::Cpu).unwrap();
        order_quantiles(&params, &QUANTILES).unwrap();
        let batch = dataset.batch(&keys(&[60, 90, 120, 150]), &Device::Cpu).unwrap();
        let output = Tft::new(&tft, &params).unwrap().forward(&batch.input, &Mode::Eval).unwrap();
        Bench { dataset, params, output, batch }
    }

    /// The 2-norm of the gradient of `loss` over everything before the output layers.
    fn gradient_norm(params: &Params, loss: &Tensor) -> f64 {
        let grads = loss.backward().unwrap();
        let shared = params.blocks().iter().filter(|block| !block.name.starts_with("output_layer"));
        let squares = shared.filter_map(|block| Some(values(grads.get(&block.var)?)));
        squares.flatten().map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn a_target_a_million_times_as_large_does_not_drown_the_other() {
        let Bench { dataset, params, output, batch } = bench(1.0);
        let objective = objective(&dataset);
        let loss = objective.loss(&output, &batch).unwrap();
        let of_order = |ratio: f64| assert!((0.1..10.0).contains(&ratio), "{ratio}");
        let losses: Vec<f64> =
            loss.per_target.iter().map(|loss| f64::from(loss.to_scalar::<f32>().unwrap())).collect();
        of_order(losses[1] / losses[0]);
        let norms: Vec<f64> = loss.per_target.iter().map(|loss| gradient_norm(&params, loss)).collect();
        of_order(norms[1] / norms[0]);
        // In their own units one would be everything.
        let told = values(&objective.measure(&output, &batch).unwrap().per_target);
        assert!(told[4] / told[1] > 1e5, "{told:?}");
    }

    #[test]
    fn the_unit_a_target_is_written_in_does_not_matter() {
        let measured = |unit: f32| {
            let Bench { dataset, params, output, batch } = bench(unit);
            let measured = objective(&dataset).measure(&output, &batch).unwrap();
            let grads = measured.loss.backward().unwrap();
            let grads: Vec<f32> =
                params.blocks().iter().filter_map(|b| Some(values(grads.get(&b.var)?))).flatten().collect();
            (values(&measured.loss)[0], grads, values(&measured.per_target))
        };
        let (loss, grads, told) = measured(1.0);
        let (loss_large, grads_large, told_large) = measured(1e6);
        assert!((loss_large / loss - 1.0).abs() < 1e-5, "{loss} and {loss_large}");
        let largest = grads.iter().fold(0f32, |m, g| m.max(g.abs()));
        assert_close(&grads, &grads_large, 1e-3 * largest);
        assert!((told_large[4] / told[4] / 1e6 - 1.0).abs() < 1e-4, "{told:?} and {told_large:?}");
    }

    #[test]
    fn weights_shift_the_shares_and_keep_the_size() {
        let Bench { dataset, output, batch, .. } = bench(1.0);
        let mut model = config().model;
        model.target_weights.insert("net".into(), 3.0);
        let weighted = Objective::new(dataset.preprocessing(), &model);
        assert_eq!(weighted.weights, [0.5, 1.5]);
        let loss = weighted.loss(&output, &batch).unwrap();
        let each: Vec<f32> = loss.per_target.iter().map(|loss| loss.to_scalar().unwrap()).collect();
        assert_close(&values(&loss.total), &[(each[0] + 3.0 * each[1]) / 4.0], 1e-6);
    }

    #[test]
    fn what_was_not_observed_has_no_gradient() {
        let dataset = dataset(1.0);
        let keys = keys(&[60]);
        let batch = dataset.batch(&keys, &Device::Cpu).unwrap();
        let (vars, output) = forecasts(keys.len());
        let loss = objective(&dataset).measure(&output, &batch).unwrap().loss;
        let grads = loss.backward().unwrap();
        let of_net = grads.get(&vars[1]).unwrap().to_vec3::<f32>().unwrap();
        let seen = batch.weights[1].to_vec2::<f32>().unwrap();
        for (rows, seen) in of_net.iter().zip(&seen) {
            for (row, seen) in rows.iter().zip(seen) {
                assert!(row.iter().all(|slope| (*slope != 0.0) == (*seen == 1.0)), "{row:?} where {seen}");
            }
        }
    }
}
