//! Promise: the network computes what pytorch-forecasting's `TemporalFusionTransformer` computes.
//!
//! Each pair of files in the folder `TFTCTL_PARITY_DIR` (default `tests/golden/parity`) was recorded from the
//! library; `tests/golden/parity/README.md` says what is in them and how to record your own. Every pair is taken,
//! by its `kind`: a network's answers and gradients, a training run, a checkpoint, a data set. What is not
//! understood is a failure that names the file, never passed over in silence.
//!
//! The tolerances sit a little above what float32 leaves between two correct implementations. A recording may
//! say how far the library's own float32 is from its float64; where that is more than a fixed bound can hold
//! (forecasts of 1e6, norms over one or two values), it is the measure: see [`Fixture::allowed`].

mod checkpoint;
mod data;
mod folder;
mod network;
mod training;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use tftctl::model::{HyperParameters, MultiLossOptions, Params, TftConfig, TftInput};

/// How many times the library's own rounding error ours may differ from it by. Two correct float32 computations
/// each err by about that much, in other places: their difference by about twice; the rest is luck.
const ROUNDINGS: f64 = 4.0;

#[test]
fn every_recording_is_answered_alike() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parity");
    let folder = std::env::var_os("TFTCTL_PARITY_DIR").map_or(default, PathBuf::from);
    match folder::check(&folder) {
        Ok(lines) => println!("{}", lines.join("\n")),
        Err(error) => panic!("{}: {error:#}", folder.display()),
    }
}

#[test]
fn the_shared_recordings_are_answered_alike() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/parity");
    if !shared.is_dir() {
        return println!("skipped: the shared recordings are not here");
    }
    println!("{}", folder::check(&shared).unwrap().join("\n"));
}

/// One pair of files.
struct Fixture {
    /// Of the JSON: it keeps the order of what it lists.
    text: String,
    json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    /// The pair `<name>.json`, `<name>.safetensors`.
    ///
    /// - Errors: a file that cannot be read, or a loss that is not ours; the file is named.
    fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {name}.json"))?;
        // Python writes what JSON has no word for.
        let text = text.replace(": -Infinity", ": \"-inf\"");
        let json: Value = serde_json::from_str(&text).with_context(|| format!("understand {name}.json"))?;
        let mut tensors = candle_core::safetensors::load(path.with_extension("safetensors"), &Device::Cpu)
            .with_context(|| format!("read {name}.safetensors"))?;
        // Scales fitted on a whole table may come in double precision.
        for tensor in tensors.values_mut().filter(|tensor| tensor.dtype().is_float()) {
            *tensor = tensor.to_dtype(DType::F32)?;
        }
        Ok(Fixture { text, json, tensors })
    }

    /// Compares what the recording holds with what we make of it; says in a line how well they agree.
    fn check(&self) -> Result<String> {
        match self.json["kind"].as_str() {
            Some("model") => network::check(self),
            Some("train") => training::check(self),
            Some("checkpoint") => checkpoint::check(self),
            Some("data") => data::check(self),
            _ => bail!("unknown kind {}", self.json["kind"]),
        }
    }

    /// The library's constructor arguments as a configuration of ours.
    fn config(&self) -> Result<TftConfig> {
        Ok(HyperParameters::parse(self.text.as_bytes())?.config)
    }

    fn parameter_order(&self) -> Vec<&str> {
        strings(&self.json["parameter_order"])
    }

    /// Names, order, number and aliases of the parameters, where the recording lists them.
    fn check_layout(&self, params: &Params) -> Result<()> {
        let names: Vec<&str> = params.iter().map(|(name, _)| name).collect();
        let order = self.parameter_order();
        ensure!(order.is_empty() || names == order, "parameters in another order than parameter_order");
        if let Some(expected) = self.json["parameters"].as_u64() {
            let found = params.n_weights();
            ensure!(found as u64 == expected, "{found} weights, the library has {expected}");
        }
        if let Some(expected) = self.json["aliases"].as_object() {
            let found: HashMap<&str, &str> =
                params.aliases().iter().map(|(alias, name)| (alias.as_str(), name.as_str())).collect();
            ensure!(found.len() == expected.len(), "{} aliases, not {}", found.len(), expected.len());
            for (alias, name) in expected {
                let found = found.get(alias.as_str()).copied();
                ensure!(found == name.as_str(), "{alias} stands for {found:?}, not {name}");
            }
        }
        Ok(())
    }

    /// The tensors whose names start with `prefix`, by the rest of their names.
    fn under(&self, prefix: &str) -> HashMap<String, Tensor> {
        let tensors = self.tensors.iter();
        tensors.filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensors.get(name).cloned().with_context(|| format!("no tensor {name}"))
    }

    /// `<stem>.0`, `<stem>.1`, ... with several targets, `<stem>` with one.
    fn per_target(&self, stem: &str, n: usize) -> Result<Vec<Tensor>> {
        (0..n).map(|i| self.tensor(&of_target(stem, i, n))).collect()
    }

    fn input(&self, prefix: &str, n_targets: usize) -> Result<TftInput> {
        let cont = |part: &str| self.tensor(&format!("{prefix}in.{part}_cont"));
        let codes = |part: &str| -> Result<Tensor> {
            Ok(self.tensor(&format!("{prefix}in.{part}_cat"))?.to_dtype(DType::U32)?)
        };
        let lengths = |part: &str| -> Result<Vec<usize>> {
            let lengths = self.tensor(&format!("{prefix}in.{part}_lengths"))?;
            let lengths = lengths.to_dtype(DType::I64)?.to_vec1::<i64>()?;
            Ok(lengths.into_iter().map(|length| length as usize).collect())
        };
        Ok(TftInput {
            encoder_cont: cont("encoder")?,
            decoder_cont: cont("decoder")?,
            encoder_cat: codes("encoder")?,
            decoder_cat: codes("decoder")?,
            encoder_lengths: lengths("encoder")?,
            decoder_lengths: lengths("decoder")?,
            target_scale: self.per_target(&format!("{prefix}in.target_scale"), n_targets)?,
        })
    }

    /// The library's loss: twice the pinball, in the target's unit.
    fn loss_options(&self, prefix: &str, decoder_lengths: &[usize]) -> MultiLossOptions {
        let weights = self.json["loss"]["target_weights"].as_array();
        MultiLossOptions {
            doubled: true,
            target_weights: weights.map(|list| list.iter().filter_map(Value::as_f64).collect()),
            sample_weights: self.tensors.get(&format!("{prefix}y.weight")).cloned().into(),
            decoder_lengths: Some(decoder_lengths.to_vec()),
            target_quantiles: self.target_quantiles(),
            ..MultiLossOptions::default()
        }
    }

    /// The quantiles of all targets; empty if each has its own.
    fn quantiles(&self) -> Result<Vec<f64>> {
        let loss = &self.json["loss"];
        let class = loss["class"].as_str().unwrap_or_default();
        ensure!(["QuantileLoss", "MultiLoss"].contains(&class), "the loss {class} is not ours");
        let reduction = loss["reduction"].as_str().unwrap_or("mean");
        ensure!(reduction == "mean", "the reduction {reduction} is not ours");
        let quantiles = loss["quantiles"].as_array().context("loss.quantiles")?;
        Ok(quantiles.iter().filter_map(Value::as_f64).collect())
    }

    fn target_quantiles(&self) -> Option<Vec<Vec<f64>>> {
        let numbers = |list: &Value| -> Option<Vec<f64>> {
            Some(list.as_array()?.iter().filter_map(Value::as_f64).collect())
        };
        self.json["loss"]["quantiles"].as_array()?.iter().map(numbers).collect()
    }

    /// `bound`, or what the rounding of this group of numbers in the library itself makes necessary.
    fn allowed(&self, group: &str, bound: f64) -> f64 {
        let noise = self.json["noise_float32_vs_float64"][group]["max_abs_diff"].as_f64().unwrap_or(0.0);
        bound.max(ROUNDINGS * noise)
    }

    /// The largest difference between `found` and what was recorded.
    ///
    /// - Errors: another shape, or a difference of more than `allowed` (or than a few roundings of the largest
    ///   value, where that is more).
    fn compare(&self, found: &Tensor, recorded: &str, allowed: f64) -> Result<f64> {
        let expected = self.tensor(recorded)?;
        let (shape, expected_shape) = (found.dims(), expected.dims());
        ensure!(shape == expected_shape, "{recorded} is {shape:?}, not {expected_shape:?}");
        let rounding = largest(&expected)? * f64::from(f32::EPSILON) / 2.0;
        let allowed = allowed.max(ROUNDINGS * rounding);
        let off = largest(&(found.detach().contiguous()? - expected)?)?;
        // `!(<=)`: NaN must not pass.
        ensure!(off <= allowed, "{recorded} is off by {off:.1e}, allowed {allowed:.1e}");
        Ok(off)
    }

    fn number(&self, pointer: &str) -> Result<f64> {
        self.json.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no number at {pointer}"))
    }
}

/// The name of a target's tensor: numbered if there are several.
fn of_target(stem: &str, i: usize, n: usize) -> String {
    if n == 1 { stem.to_owned() } else { format!("{stem}.{i}") }
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The largest absolute value; NaN if there is one.
fn largest(x: &Tensor) -> Result<f64> {
    let values = x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(values.into_iter().fold(0.0, |m, v| if v.is_nan() || m < v.abs() { v.abs() } else { m }))
}
