//! A network's answers: outputs, loss, and the gradient of every parameter.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use candle_core::backprop::GradStore;
use tftctl::model::{Mode, Params, Tft, TftOutput, multi_quantile_loss};

use super::{Fixture, largest, of_target, strings};

/// Largest difference of an output, absolute.
pub const OUTPUT: f64 = 1e-5;
/// Largest difference of the loss, absolute.
const LOSS: f64 = 1e-6;
/// Largest difference within a gradient: this share of its largest value, plus [`GRADIENT_FLOOR`].
const GRADIENT: f64 = 1e-5;
const GRADIENT_FLOOR: f64 = 1e-7;

/// Says how far outputs (absolute) and gradients (as a share of their largest value) are off at most.
pub fn check(fixture: &Fixture) -> Result<String> {
    let config = fixture.config()?;
    let n_targets = config.output_sizes.len();
    let params = Params::from_tensors(&config, &fixture.under("param."), &Device::Cpu)?;
    fixture.check_layout(&params)?;
    let input = fixture.input("", n_targets)?;
    let network = Tft::new(&config, &params)?;
    let output = network.forward(&input, &Mode::Explain)?;
    check_unexplained(&network.forward(&input, &Mode::Eval)?, &output)?;
    let off = check_outputs(fixture, &output)?;
    let targets = fixture.per_target("y.target", n_targets)?;
    let options = fixture.loss_options("", &input.decoder_lengths);
    let loss = multi_quantile_loss(&output, &targets, &fixture.quantiles()?, &options)?;
    let allowed = fixture.allowed("loss", LOSS);
    fixture.compare(&loss.total, "loss", allowed)?;
    if n_targets > 1 {
        for (i, one) in loss.per_target.iter().enumerate() {
            fixture.compare(one, &format!("loss.{i}"), allowed)?;
        }
    }
    let (share, n_beyond) = check_gradients(fixture, &params, &loss.total.backward()?)?;
    let excused = match n_beyond {
        0 => String::new(),
        n => format!(" ({n} beyond {GRADIENT:.0e}, within the library's own rounding)"),
    };
    Ok(format!("network, outputs within {off:.1e}, {} gradients within {share:.1e}{excused}", params.len()))
}

/// Forecasts, attention and selection weights; the largest difference.
fn check_outputs(fixture: &Fixture, output: &TftOutput) -> Result<f64> {
    let n_targets = output.prediction.len();
    let allowed = |group: &str| fixture.allowed(&format!("out.{group}"), OUTPUT);
    let attention = output.attention.as_ref().context("the weights of the attention")?;
    let mut worst = 0f64;
    for (i, forecast) in output.prediction.iter().enumerate() {
        let name = of_target("out.prediction", i, n_targets);
        worst = worst.max(fixture.compare(forecast, &name, allowed("prediction"))?);
    }
    for (group, found) in [
        ("encoder_attention", &attention.encoder),
        ("decoder_attention", &attention.decoder),
        ("static_variables", &output.static_variables),
        ("encoder_variables", &output.encoder_variables),
        ("decoder_variables", &output.decoder_variables),
    ] {
        worst = worst.max(fixture.compare(found, &format!("out.{group}"), allowed(group))?);
    }
    Ok(worst)
}

/// Explaining a forecast changes nothing in it.
fn check_unexplained(plain: &TftOutput, explained: &TftOutput) -> Result<()> {
    ensure!(plain.attention.is_none(), "weights of the attention that nobody asked for");
    for (a, b) in plain.prediction.iter().zip(&explained.prediction) {
        let [a, b] = [a, b].map(|x| x.flatten_all()?.to_vec1::<f32>());
        ensure!(a? == b?, "the explained forecast is another one");
    }
    Ok(())
}

/// Every parameter: the recorded gradient, or none (or zeros) where the library had none.
///
/// Returns the largest difference as a share of its gradient's largest value (the floor added), and how many were
/// beyond the fixed bound.
fn check_gradients(fixture: &Fixture, params: &Params, grads: &GradStore) -> Result<(f64, usize)> {
    let unused = strings(&fixture.json["grad_none"]);
    let (mut worst, mut n_beyond) = (0f64, 0);
    for (name, values) in params.iter() {
        let found = params.gradient(grads, name)?;
        if unused.contains(&name) {
            let largest = found.as_ref().map_or(Ok(0.0), largest)?;
            ensure!(largest == 0.0, "{name} has a gradient of {largest:.1e}, in the library it has none");
            continue;
        }
        let recorded = format!("grad.{name}");
        let largest = largest(&fixture.tensor(&recorded)?)?;
        ensure!(largest.is_finite(), "{recorded} is not finite in the recording");
        let found = match found {
            Some(found) => found,
            // Whoever had a part in the loss that came to nothing may have none here and zeros there.
            None if largest == 0.0 => values.zeros_like()?,
            None => bail!("{name} has no gradient"),
        };
        let bound = GRADIENT * largest + GRADIENT_FLOOR;
        let off = fixture.compare(&found, &recorded, fixture.allowed("grad", bound)).context("gradient")?;
        worst = worst.max(GRADIENT * off / bound);
        n_beyond += usize::from(off > bound);
    }
    Ok((worst, n_beyond))
}
