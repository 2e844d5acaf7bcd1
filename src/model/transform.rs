//! From the network's scale back to the unit of a target.

use anyhow::{Result, ensure};
use candle_core::{Tensor, WithDType};
use serde::{Deserialize, Serialize};

/// The transformation that a target went through before it was centred and scaled.
///
/// Only its way back lives here, with the quirks of the reference: `log1p` comes back as `exp` (one too high) and
/// `count` is not shifted back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transformation {
    #[default]
    Identity,
    /// Negative forecasts become 0.
    Relu,
    Softplus,
    Log,
    Log1p,
    /// Of a share between 0 and 1.
    Logit,
    Count,
    Sqrt,
}

impl Transformation {
    /// A forecast in the unit of the target: `back(raw * scale + centre)`.
    ///
    /// - Shapes: `raw [B, H, Q]`, `target_scale [B, 2]` (centre, scale) -> `[B, H, Q]`.
    pub fn denormalise(self, raw: &Tensor, target_scale: &Tensor) -> Result<Tensor> {
        let batch = raw.dim(0)?;
        ensure!(
            target_scale.dims() == [batch, 2],
            "target_scale {:?} for {batch} samples",
            target_scale.dims()
        );
        let centre = target_scale.narrow(1, 0, 1)?.unsqueeze(2)?;
        let scale = target_scale.narrow(1, 1, 1)?.unsqueeze(2)?;
        Ok(self.back(&raw.broadcast_mul(&scale)?.broadcast_add(&centre)?)?)
    }

    /// The inverse (or what the reference takes for it), element by element.
    pub fn back(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Transformation::Identity => Ok(x.clone()),
            Transformation::Relu => x.relu(),
            Transformation::Softplus | Transformation::Count => softplus(x),
            Transformation::Log | Transformation::Log1p => x.exp(),
            Transformation::Logit => candle_nn::ops::sigmoid(x)?.clamp(f32::MIN_POSITIVE, 1.0 - f32::EPSILON),
            Transformation::Sqrt => x.sqr(),
        }
    }
}

/// `ln(1 + e^x)`, linear above 20 as in PyTorch.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    const LINEAR_ABOVE: f64 = 20.0;
    let curved = (x.minimum(LINEAR_ABOVE)?.exp()? + 1.0)?.log()?;
    x.gt(LINEAR_ABOVE.to_f64())?.where_cond(x, &curved)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::ops::check::{assert_close, assert_gradients, noise, values};

    #[track_caller]
    fn case(transformation: Transformation, input: &[f32], expected: &[f32]) {
        let x = Tensor::new(input, &Device::Cpu).unwrap();
        assert_close(&values(&transformation.back(&x).unwrap()), expected, 1e-5);
    }

    #[test]
    fn values_by_hand() {
        use Transformation::*;
        use std::f32::consts::{E, LN_2};
        case(Identity, &[-1.5, 2.0], &[-1.5, 2.0]);
        case(Relu, &[-1.5, 2.0], &[0.0, 2.0]);
        case(Softplus, &[-30.0, 0.0, 1.0, 19.0, 25.0, 100.0], &[0.0, LN_2, 1.313262, 19.0, 25.0, 100.0]);
        case(Count, &[0.0], &[LN_2]);
        case(Log, &[0.0, 1.0], &[1.0, E]);
        case(Log1p, &[0.0, 1.0], &[1.0, E]);
        case(Logit, &[0.0, -200.0, 200.0], &[0.5, 0.0, 1.0]);
        case(Sqrt, &[-3.0, 2.0], &[9.0, 4.0]);
    }

    #[test]
    fn every_way_back_has_a_gradient() {
        use Transformation::*;
        for transformation in [Identity, Relu, Softplus, Log, Log1p, Logit, Count, Sqrt] {
            let vars = [Var::from_tensor(&noise("raw", &[2, 3, 2])).unwrap()];
            let scale = Tensor::new(&[[0.3f32, 1.5], [-0.2, 0.5]], &Device::Cpu).unwrap();
            assert_gradients(&vars, 3e-3, || {
                let y = transformation.denormalise(&vars[0], &scale).map_err(candle_core::Error::msg)?;
                (y * noise("direction", &[2, 3, 2]))?.sum_all()
            });
        }
    }
}
