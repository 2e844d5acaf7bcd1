//! Promise: the network computes what pytorch-forecasting's `TemporalFusionTransformer` computes.
//!
//! Each pair of files in the folder `TFTCTL_PARITY_DIR` (default `tests/golden/parity`) was recorded from the
//! library: a configuration, its parameters, a batch, and what came out, gradients included. The tolerances sit a
//! little above what float32 leaves between two correct implementations (each file lists it against float64).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use tftctl::model::{
    Mode, MultiLossOptions, Params, Tft, TftConfig, TftInput, TftOutput, multi_quantile_loss,
};
use tftctl::train::optimizer::{AdamW, AdamWSettings};

/// Largest difference of an output, absolute.
const OUTPUT: f64 = 1e-5;
/// Largest difference of the loss, absolute.
const LOSS: f64 = 1e-6;
/// Largest difference within a gradient: this share of its largest value, plus [`GRADIENT_FLOOR`].
const GRADIENT: f64 = 1e-5;
const GRADIENT_FLOOR: f64 = 1e-7;

#[test]
fn outputs_loss_and_every_gradient_are_the_librarys() {
    let fixtures: Vec<Fixture> =
        fixtures().into_iter().filter(|fixture| fixture.json["kind"] == "model").collect();
    assert!(!fixtures.is_empty(), "no model fixture in {}", folder().display());
    let off = |fixture: &Fixture| Some(format!("{}: {:#}", fixture.name, fixture.check().err()?));
    let failures: Vec<String> = fixtures.iter().filter_map(off).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn parameters_come_in_the_librarys_order() {
    for fixture in fixtures().into_iter().filter(|fixture| fixture.json["kind"] == "model") {
        let params = Params::init(&fixture.config().unwrap(), 1, &Device::Cpu).unwrap();
        let names: Vec<&str> = params.iter().map(|(name, _)| name).collect();
        assert_eq!(names, fixture.parameter_order(), "{}", fixture.name);
        assert_eq!(params.n_weights() as u64, fixture.json["parameters"].as_u64().unwrap());
        let mut aliases: Vec<&str> = params.aliases().iter().map(|(alias, _)| alias.as_str()).collect();
        let mut expected: Vec<&str> =
            fixture.json["aliases"].as_object().unwrap().keys().map(String::as_str).collect();
        aliases.sort_unstable();
        expected.sort_unstable();
        assert_eq!(aliases, expected, "{}", fixture.name);
    }
}

#[test]
fn a_training_run_takes_the_same_steps() {
    for fixture in fixtures().into_iter().filter(|fixture| fixture.json["kind"] == "train") {
        fixture.check_training().unwrap_or_else(|error| panic!("{}: {error:#}", fixture.name));
    }
}

struct Fixture {
    name: String,
    json: Value,
    tensors: HashMap<String, Tensor>,
}

fn folder() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parity");
    std::env::var_os("TFTCTL_PARITY_DIR").map_or(default, PathBuf::from)
}

/// Every pair of the folder, in the order of their names.
fn fixtures() -> Vec<Fixture> {
    let entries = std::fs::read_dir(folder()).expect("the folder of the recordings");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.iter().map(|path| Fixture::read(path).unwrap()).collect()
}

impl Fixture {
    fn read(path: &Path) -> Result<Self> {
        let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        let json = serde_json::from_slice(&std::fs::read(path)?)?;
        let tensors = candle_core::safetensors::load(path.with_extension("safetensors"), &Device::Cpu)?;
        Ok(Fixture { name, json, tensors })
    }

    /// The library's constructor arguments as a configuration of ours.
    fn config(&self) -> Result<TftConfig> {
        let mut fields = self.json["constructor"].clone();
        let map = fields.as_object_mut().context("constructor arguments")?;
        let output = map.remove("output_size").unwrap_or(json!(7));
        map.insert("output_sizes".into(), if output.is_array() { output } else { json!([output]) });
        let identity = |t: &Value| if t.is_null() { json!("identity") } else { t.clone() };
        let transformations = match self.json["output_transformations"].as_array() {
            Some(list) => list.iter().map(identity).collect::<Vec<_>>(),
            None => vec![json!("identity")],
        };
        map.insert("output_transformations".into(), json!(transformations));
        let sizes = map.remove("embedding_sizes").unwrap_or(json!({}));
        map.insert("embedding_sizes".into(), self.embedding_sizes(&sizes));
        // Minus infinity cannot be written in JSON; both make a masked weight exactly 0.
        if fields["mask_bias"].is_string() {
            fields["mask_bias"] = json!(-1e9);
        }
        Ok(serde_json::from_value(fields)?)
    }

    /// The order of a JSON object is lost on the way; the parameters keep it where it matters.
    fn embedding_sizes(&self, sizes: &Value) -> Value {
        let table = |name: &str| json!({"name": name, "classes": sizes[name][0], "dim": sizes[name][1]});
        let order = self.parameter_order();
        if order.is_empty() {
            return sizes.as_object().into_iter().flatten().map(|(name, _)| table(name)).collect();
        }
        let weight = |name: &'_ str| {
            name.strip_prefix("input_embeddings.embeddings.")?.strip_suffix(".weight").map(table)
        };
        order.into_iter().filter_map(weight).collect()
    }

    fn parameter_order(&self) -> Vec<&str> {
        let order = self.json["parameter_order"].as_array();
        order.map(|names| names.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
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
        let name = |i| if n == 1 { stem.to_owned() } else { format!("{stem}.{i}") };
        (0..n).map(|i| self.tensor(&name(i))).collect()
    }

    fn input(&self, prefix: &str, n_targets: usize) -> Result<TftInput> {
        let cont = |part: &str| self.tensor(&format!("{prefix}in.{part}_cont"));
        let codes = |part: &str| -> Result<Tensor> {
            Ok(self.tensor(&format!("{prefix}in.{part}_cat"))?.to_dtype(DType::U32)?)
        };
        let lengths = |part: &str| -> Result<Vec<usize>> {
            let lengths = self.tensor(&format!("{prefix}in.{part}_lengths"))?.to_vec1::<i64>()?;
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

    fn loss_options(&self, decoder_lengths: &[usize]) -> MultiLossOptions {
        let weights = self.json["loss"]["target_weights"].as_array();
        MultiLossOptions {
            doubled: true,
            target_weights: weights.map(|list| list.iter().filter_map(Value::as_f64).collect()),
            sample_weights: self.tensors.get("y.weight").cloned(),
            decoder_lengths: Some(decoder_lengths.to_vec()),
        }
    }

    fn quantiles(&self) -> Vec<f64> {
        self.json["loss"]["quantiles"].as_array().unwrap().iter().filter_map(Value::as_f64).collect()
    }

    fn check(&self) -> Result<()> {
        let config = self.config()?;
        let n_targets = config.output_sizes.len();
        let params = Params::from_tensors(&config, &self.under("param."), &Device::Cpu)?;
        let input = self.input("", n_targets)?;
        let network = Tft::new(&config, &params)?;
        let output = network.forward(&input, &Mode::Explain)?;
        self.check_outputs(&output)?;
        self.check_unexplained(&network.forward(&input, &Mode::Eval)?, &output)?;
        let targets = self.per_target("y.target", n_targets)?;
        let options = self.loss_options(&input.decoder_lengths);
        let loss = multi_quantile_loss(&output, &targets, &self.quantiles(), &options)?;
        self.compare("loss", &loss.total, "loss", LOSS)?;
        if n_targets > 1 {
            for (i, one) in loss.per_target.iter().enumerate() {
                self.compare("loss", one, &format!("loss.{i}"), LOSS)?;
            }
        }
        self.check_gradients(&params, &loss.total.backward()?)
    }

    fn check_outputs(&self, output: &TftOutput) -> Result<()> {
        let n_targets = output.prediction.len();
        for (i, forecast) in output.prediction.iter().enumerate() {
            let name = if n_targets == 1 { "out.prediction".into() } else { format!("out.prediction.{i}") };
            self.compare("forecast", forecast, &name, OUTPUT)?;
        }
        let attention = output.attention.as_ref().context("the weights of the attention")?;
        self.compare("attention", &attention.encoder, "out.encoder_attention", OUTPUT)?;
        self.compare("attention", &attention.decoder, "out.decoder_attention", OUTPUT)?;
        self.compare("weights", &output.static_variables, "out.static_variables", OUTPUT)?;
        self.compare("weights", &output.encoder_variables, "out.encoder_variables", OUTPUT)?;
        self.compare("weights", &output.decoder_variables, "out.decoder_variables", OUTPUT)
    }

    /// Explaining a forecast changes nothing in it.
    fn check_unexplained(&self, plain: &TftOutput, explained: &TftOutput) -> Result<()> {
        anyhow::ensure!(plain.attention.is_none(), "weights of the attention that nobody asked for");
        for (a, b) in plain.prediction.iter().zip(&explained.prediction) {
            let [a, b] = [a, b].map(|x| x.flatten_all()?.to_vec1::<f32>());
            anyhow::ensure!(a? == b?, "the explained forecast is another one");
        }
        Ok(())
    }

    fn check_gradients(&self, params: &Params, grads: &GradStore) -> Result<()> {
        let unused: Vec<&str> =
            self.json["grad_none"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, var) in params.iter() {
            let recorded = format!("grad.{name}");
            if unused.contains(&name) {
                continue;
            }
            let found = grads.get(var).with_context(|| format!("{name} has no gradient"))?;
            let largest = largest(&self.tensor(&recorded)?)?;
            self.compare("gradient", found, &recorded, GRADIENT * largest + GRADIENT_FLOOR)?;
        }
        Ok(())
    }

    fn compare(&self, what: &str, found: &Tensor, recorded: &str, tolerance: f64) -> Result<()> {
        let expected = self.tensor(recorded)?;
        anyhow::ensure!(
            found.dims() == expected.dims(),
            "{recorded}: {:?}, not {:?}",
            found.dims(),
            expected.dims()
        );
        let off = largest(&(found.detach().contiguous()? - expected)?)?;
        // `!(<=)`: NaN must not pass.
        anyhow::ensure!(off <= tolerance, "{what} {recorded} is off by {off:.1e}, allowed {tolerance:.1e}");
        Ok(())
    }

    /// Losses to 1e-5 and gradient norms to 1e-4 for ten steps, losses to 2e-4 for all: what float32 leaves.
    fn check_training(&self) -> Result<()> {
        let config = self.config()?;
        let params = Params::from_tensors(&config, &self.under("start."), &Device::Cpu)?;
        let network = Tft::new(&config, &params)?;
        let number = |value: &Value| value.as_f64().context("a number");
        let settings = AdamWSettings::new(
            number(&self.json["optimizer"]["weight_decay"])?,
            number(&self.json["clip_grad_norm"])?,
        );
        let mut optimizer = AdamW::new(params.iter(), settings, &Device::Cpu)?;
        let n_batches = self.json["batches"].as_u64().context("batches")?;
        for step in 0..self.json["steps"].as_u64().context("steps")? {
            let batch = format!("batch{}.", step % n_batches);
            let input = self.input(&batch, 1)?;
            let output = network.forward(&input, &Mode::Eval)?;
            let options = self.loss_options(&input.decoder_lengths);
            let target = self.tensor(&format!("{batch}y.target"))?;
            let loss = multi_quantile_loss(&output, &[target], &self.quantiles(), &options)?.total;
            let gradient = optimizer.gradient(&loss.backward()?)?;
            let norm = f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
            optimizer.step(&gradient, norm, number(&self.json["optimizer"]["lr"])?)?;
            let loss = f64::from(loss.to_scalar::<f32>()?);
            let off = |found: f64, list: &str| -> Result<f64> {
                Ok((found / number(&self.json[list][step as usize])? - 1.0).abs())
            };
            let (loss_limit, norm_limit) = if step < 10 { (1e-5, 1e-4) } else { (2e-4, f64::INFINITY) };
            anyhow::ensure!(off(loss, "losses")? < loss_limit, "step {step}: loss {loss}");
            anyhow::ensure!(off(norm, "grad_norms")? < norm_limit, "step {step}: norm {norm}");
        }
        Ok(())
    }
}

/// The largest absolute value; NaN if there is one.
fn largest(x: &Tensor) -> Result<f64> {
    let values = x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(values.into_iter().fold(0.0, |m, v| if v.is_nan() || m < v.abs() { v.abs() } else { m }))
}
