//! The gated skip connection: `LN(GLU(x) + skip)` (Lim et al., equations 3 to 5).

use candle_core::{Result, Tensor, bail};
use candle_nn::ops::sigmoid;

use super::dropout::Mask;
use super::gate_fused::{Gate, gate_add_norm_fused};
use super::host::has_fused_form;
use super::layer_norm::layer_norm_plain;
use super::linear::matrix_plain;
use super::pack::{ensure_len, view};

/// Widths of a gate.
#[derive(Clone, Copy, Debug)]
pub struct GateSizes {
    pub n_in: usize,
    pub n_out: usize,
}

/// The parameters of a gate: weight `[2 out, in]` and bias `[2 out]` of its layer (the values, then the gates), weight and
/// bias of the norm, `[out]` each.
#[derive(Clone)]
pub struct GateWeights {
    pub(super) values: Tensor,
    pub(super) sizes: GateSizes,
}

impl GateWeights {
    /// - Errors: `values` are not those of such a gate.
    pub fn new(values: Tensor, sizes: GateSizes) -> Result<Self> {
        if sizes.n_in == 0 || sizes.n_out == 0 {
            bail!("a gate without features");
        }
        ensure_len(&values, Gate::new(sizes, None).n_values(), "a gate")?;
        Ok(GateWeights { values, sizes })
    }
}

/// `LN(GLU(x) + skip)`, with dropout on `x` if there is a mask.
///
/// - Shapes: `x [.., in]`, `skip [.., out]` -> `[.., out]`.
/// - Errors: shapes that do not fit.
pub fn gate_add_norm(x: &Tensor, skip: &Tensor, weights: &GateWeights, mask: Option<Mask>) -> Result<Tensor> {
    let GateSizes { n_in, n_out } = weights.sizes;
    let fits = match (x.dims(), skip.dims()) {
        ([outer @ .., x], [outer_skip @ .., skip]) => outer == outer_skip && (*x, *skip) == (n_in, n_out),
        _ => false,
    };
    if !fits {
        bail!("a gate from {n_in} to {n_out} with inputs {:?} and {:?}", x.dims(), skip.dims());
    }
    let form = if has_fused_form(x) { gate_add_norm_fused } else { gate_add_norm_plain };
    form(x, skip, weights, mask)
}

/// [`gate_add_norm`] in tensor operations, on any device and in any precision.
pub fn gate_add_norm_plain(
    x: &Tensor,
    skip: &Tensor,
    weights: &GateWeights,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let dropped = match mask {
        Some(mask) => mask.apply(x)?,
        None => x.clone(),
    };
    let (GateSizes { n_in, n_out }, values) = (weights.sizes, &weights.values);
    let Gate { linear, norm, .. } = Gate::new(weights.sizes, None);
    let (weight, bias) =
        (view(values, &linear.weight, (2 * n_out, n_in))?, view(values, &linear.bias, 2 * n_out)?);
    let sum = (glu_plain(&dropped, &weight, &bias)? + skip)?;
    layer_norm_plain(&sum, &view(values, &norm.weight, n_out)?, &view(values, &norm.bias, n_out)?)
}

/// Half of a linear layer's outputs, each scaled by the sigmoid of its partner in the other half.
fn glu_plain(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let width = weight.dim(0)? / 2;
    // The weights are split rather than the result: the backward of a slice pads it to full size again.
    let half =
        |start| matrix_plain(x, &weight.narrow(0, start, width)?, Some(&bias.narrow(0, start, width)?));
    half(0)? * sigmoid(&half(width)?)?
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Var};

    use super::*;
    use crate::ops::Dropout;
    use crate::ops::check::*;

    fn all_vars(outer: &[usize], n_in: usize, n_out: usize) -> Vec<Var> {
        let (x, skip) = ([outer, &[n_in]].concat(), [outer, &[n_out]].concat());
        vars(&[("x", &x), ("skip", &skip), ("values", &[2 * n_out * n_in + 4 * n_out])])
    }

    fn weights(vars: &[Var]) -> GateWeights {
        let (n_in, n_out) = (vars[0].dim(D::Minus1).unwrap(), vars[1].dim(D::Minus1).unwrap());
        GateWeights::new(vars[2].as_tensor().clone(), GateSizes { n_in, n_out }).unwrap()
    }

    fn masks() -> [Option<Mask>; 2] {
        [None, Dropout::new(0.3, 4, 2).site()]
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_every_gradient() {
        for (outer, n_in, n_out) in [
            (&[1][..], 1, 1),
            (&[3], 5, 16),
            (&[17], 16, 5),
            (&[33], 22, 22),
            (&[2, 32], 64, 32),
            (&[3, 2, 16], 32, 64),
            (&[40, 20], 16, 16),
        ] {
            for mask in masks() {
                let vars = all_vars(outer, n_in, n_out);
                let fused = |v: &[Var]| gate_add_norm_fused(&v[0], &v[1], &weights(v), mask).unwrap();
                let plain = |v: &[Var]| gate_add_norm_plain(&v[0], &v[1], &weights(v), mask).unwrap();
                assert_forms_agree(&vars, &fused, &plain, 1e-5);
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = all_vars(&[2, 3], 4, 3);
        for mask in masks() {
            assert_gradients(&vars, 3e-3, || {
                let y = gate_add_norm(&vars[0], &vars[1], &weights(&vars), mask)?;
                (y * noise("direction", &[2, 3, 3]))?.sum_all()
            });
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let vars = all_vars(&[60, 40], 16, 22);
        let [_, mask] = masks();
        let form = |v: &[Var]| gate_add_norm_fused(&v[0], &v[1], &weights(v), mask).unwrap();
        assert_threads_agree(&vars, &form);
    }

    #[test]
    fn misfitting_shapes_are_refused() {
        let refused = |x: &[usize], skip: &[usize]| {
            let weights = weights(&all_vars(&[1], 4, 3));
            gate_add_norm(&noise("x", x), &noise("skip", skip), &weights, None).is_err()
        };
        assert!(!refused(&[2, 4], &[2, 3]));
        assert!(refused(&[2, 5], &[2, 3]));
        assert!(refused(&[2, 4], &[2, 4]));
        assert!(refused(&[2, 4], &[1, 3]));
        assert!(GateWeights::new(noise("values", &[37]), GateSizes { n_in: 4, n_out: 3 }).is_err());
    }
}
