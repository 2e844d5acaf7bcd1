//! A linear layer over the last axis.

use candle_core::{D, Result, Tensor, bail};

use super::host::has_fused_form;
use super::linear_fused::linear_fused;
use super::pack::{ensure_len, view};

/// The parameters of a layer: weight `[out, in]`, then bias `[out]` if there is one.
#[derive(Clone)]
pub struct LinearWeights {
    pub(super) values: Tensor,
    pub(super) n_out: usize,
    pub(super) n_in: usize,
    pub(super) has_bias: bool,
}

impl LinearWeights {
    /// - Errors: `values` are not those of such a layer.
    pub fn new(values: Tensor, (n_out, n_in): (usize, usize), has_bias: bool) -> Result<Self> {
        let weights = LinearWeights { values, n_out, n_in, has_bias };
        if n_in == 0 {
            bail!("a layer without inputs");
        }
        ensure_len(&weights.values, weights.bias_at() + if has_bias { n_out } else { 0 }, "a layer")?;
        Ok(weights)
    }

    /// Width of the output.
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Numbers in front of the bias.
    pub(super) fn bias_at(&self) -> usize {
        self.n_out * self.n_in
    }

    fn weight(&self) -> Result<Tensor> {
        view(&self.values, &(0..self.bias_at()), (self.n_out, self.n_in))
    }

    fn bias(&self) -> Result<Option<Tensor>> {
        let range = self.bias_at()..self.bias_at() + self.n_out;
        self.has_bias.then(|| view(&self.values, &range, self.n_out)).transpose()
    }
}

/// `x Wᵀ + b`.
///
/// - Shapes: `x [.., in]` -> `[.., out]`.
/// - Errors: inputs of another width.
pub fn linear(x: &Tensor, weights: &LinearWeights) -> Result<Tensor> {
    if x.dims().last() != Some(&weights.n_in) {
        bail!("{:?} into a layer of {} inputs", x.dims(), weights.n_in);
    }
    if has_fused_form(x) { linear_fused(x, weights) } else { linear_plain(x, weights) }
}

/// [`linear`] in tensor operations, on any device and in any precision.
pub fn linear_plain(x: &Tensor, weights: &LinearWeights) -> Result<Tensor> {
    matrix_plain(x, &weights.weight()?, weights.bias()?.as_ref())
}

/// `x Wᵀ + b` of tensors by themselves.
pub(super) fn matrix_plain(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let n_in = x.dim(D::Minus1)?;
    let mut shape = x.dims().to_vec();
    let n_rows = shape.iter().product::<usize>() / n_in;
    shape[x.rank() - 1] = weight.dim(0)?;
    let y = x.reshape((n_rows, n_in))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    y.reshape(shape)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::ops::check::*;

    fn weights(values: &Tensor, n_in: usize, n_out: usize, has_bias: bool) -> LinearWeights {
        LinearWeights::new(values.clone(), (n_out, n_in), has_bias).unwrap()
    }

    fn both(shape: &[usize], n_out: usize, has_bias: bool) -> (Vec<Var>, [impl Fn(&[Var]) -> Tensor; 2]) {
        let n_in = shape[shape.len() - 1];
        let n_values = n_out * n_in + if has_bias { n_out } else { 0 };
        let all = vars(&[("x", shape), ("values", &[n_values])]);
        let forms = [linear_fused, linear_plain]
            .map(|form| move |v: &[Var]| form(&v[0], &weights(&v[1], n_in, n_out, has_bias)).unwrap());
        (all, forms)
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_every_gradient() {
        for (shape, n_out) in [
            (&[1, 1][..], 1),
            (&[3, 5], 16),
            (&[17, 22], 5),
            (&[33, 64], 22),
            (&[2, 3, 16, 32], 7),
            (&[5, 200, 16], 33),
        ] {
            for has_bias in [true, false] {
                let (vars, [fused, plain]) = both(shape, n_out, has_bias);
                assert_forms_agree(&vars, &fused, &plain, 3e-6);
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = vars(&[("x", &[2, 3, 4]), ("values", &[15])]);
        assert_gradients(&vars, 2e-3, || {
            (linear(&vars[0], &weights(&vars[1], 4, 3, true))? * noise("direction", &[2, 3, 3]))?.sum_all()
        });
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (vars, [fused, _]) = both(&[70, 40, 32], 32, true);
        assert_threads_agree(&vars, &fused);
    }

    #[test]
    fn inputs_may_be_strided_and_empty() {
        let (x, weights) = (noise("x", &[4, 6, 5]), weights(&noise("values", &[15]), 5, 3, false));
        let part = x.narrow(1, 2, 3).unwrap();
        let (a, b) = (linear(&part, &weights).unwrap(), linear_plain(&part, &weights).unwrap());
        assert_close(&values(&a), &values(&b), 1e-5);
        let none = linear(&x.narrow(1, 0, 0).unwrap(), &weights).unwrap();
        assert_eq!(none.dims(), [4, 0, 3]);
    }

    #[test]
    fn misfitting_shapes_are_refused() {
        let values = noise("values", &[8]);
        assert!(linear(&noise("x", &[3, 5]), &weights(&values, 4, 2, false)).is_err());
        assert!(LinearWeights::new(values.clone(), (2, 4), true).is_err());
        assert!(LinearWeights::new(values.reshape((2, 4)).unwrap(), (2, 4), false).is_err());
    }
}
