//! A data set: the library's windows, codes and scales.
//!
//! Our windows are cut and scaled by other rules, on purpose, so these are not compared. What must agree is how a
//! network's number becomes one in the target's unit: the scaled target column, taken back with the window's
//! centre and scale, is the raw target.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde_json::{Value, json};
use tftctl::model::Transformation;

use super::{Fixture, of_target, strings};

/// Largest difference of a target, as a share of its value plus 1.
const TARGET: f64 = 1e-5;

/// Takes the scaled targets back where they can be taken; says what was compared and what was not.
pub fn check(fixture: &Fixture) -> Result<String> {
    let target = &fixture.json["arguments"]["target"];
    let targets = target.as_str().map_or_else(|| strings(target), |one| vec![one]);
    ensure!(!targets.is_empty(), "no arguments.target");
    let normalizer = &fixture.json["fitted"]["target_normalizer"];
    let mut told = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let normalizer = normalizer["normalizers"].get(i).unwrap_or(normalizer);
        told.push(match place_and_transformation(fixture, target, normalizer) {
            Some((column, name)) => {
                let off = check_target(fixture, (i, targets.len()), column, name)?;
                format!("{target} taken back within {off:.1e}")
            }
            None => format!("{target} has no way back of ours, passed over"),
        });
    }
    Ok(format!("data, not a network: {}; windows and codes passed over", told.join(", ")))
}

/// The target's column among the reals, and the name of its transformation; none for a categorical target, or for
/// `count`, which the library does not take back to where it came from.
fn place_and_transformation<'a>(
    fixture: &Fixture,
    target: &str,
    normalizer: &'a Value,
) -> Option<(usize, &'a str)> {
    let column = strings(&fixture.json["x_reals"]).iter().position(|&name| name == target)?;
    let transformation = match &normalizer["transformation"] {
        Value::Null => "identity",
        name => name.as_str()?,
    };
    let is_taken_back = normalizer["class"] != "NaNLabelEncoder" && transformation != "count";
    is_taken_back.then_some((column, transformation))
}

/// The largest difference over all windows, as a share.
fn check_target(fixture: &Fixture, (i, n): (usize, usize), column: usize, name: &str) -> Result<f64> {
    let transformation: Transformation =
        serde_json::from_value(json!(name)).with_context(|| format!("transformation {name}"))?;
    let scaled = fixture.tensor("all.x.decoder_cont")?.narrow(2, column, 1)?;
    let scale = fixture.tensor(&of_target("all.x.target_scale", i, n))?;
    let found = transformation.denormalise(&scaled, &scale)?.squeeze(2)?;
    let lengths = fixture.tensor("all.x.decoder_lengths")?.to_vec1::<i64>()?;
    let recorded = fixture.tensor(&format!("all.y.target.{i}"))?;
    // The library takes `log1p` back by `exp`: one too high.
    let shift = f64::from(u8::from(name == "log1p"));
    let rows = |tensor: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(tensor.to_vec2::<f32>()?) };
    let mut worst = 0f64;
    for ((found, recorded), length) in rows(&found)?.into_iter().zip(rows(&recorded)?).zip(lengths) {
        for (found, recorded) in found.into_iter().zip(recorded).take(length as usize) {
            let expected = f64::from(recorded) + shift;
            let off = (f64::from(found) - expected).abs() / (expected.abs() + 1.0);
            ensure!(off <= TARGET, "target {i} is {found}, recorded {recorded}");
            worst = worst.max(off);
        }
    }
    Ok(worst)
}
