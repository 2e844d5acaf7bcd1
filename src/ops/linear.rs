//! A linear layer over the last axis.

use candle_core::{D, Result, Tensor, bail};

use super::host::has_fused_form;
use super::linear_fused::linear_fused;

/// `x Wᵀ + b`.
///
/// - Shapes: `x [.., in]`, `weight [out, in]`, `bias [out]` -> `[.., out]`.
/// - Errors: shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (n_out, n_in) = weight.dims2()?;
    if n_in == 0 || x.dims().last() != Some(&n_in) || bias.is_some_and(|bias| bias.dims() != [n_out]) {
        bail!("{:?} into weights {:?} and bias {:?}", x.dims(), weight.dims(), bias.map(Tensor::dims));
    }
    if has_fused_form(x) { linear_fused(x, weight, bias) } else { linear_plain(x, weight, bias) }
}

/// [`linear`] in tensor operations, on any device and in any precision.
pub fn linear_plain(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
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

    fn both(shape: &[usize], n_out: usize, has_bias: bool) -> (Vec<Var>, [impl Fn(&[Var]) -> Tensor; 2]) {
        let n_in = shape[shape.len() - 1];
        let mut all = vars(&[("x", shape), ("weight", &[n_out, n_in])]);
        if has_bias {
            all.extend(vars(&[("bias", &[n_out])]));
        }
        let forms = [linear_fused, linear_plain]
            .map(|form| move |v: &[Var]| form(&v[0], &v[1], v.get(2).map(|bias| bias.as_tensor())).unwrap());
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
        let vars = vars(&[("x", &[2, 3, 4]), ("weight", &[3, 4]), ("bias", &[3])]);
        assert_gradients(&vars, 2e-3, || {
            (linear(&vars[0], &vars[1], Some(&vars[2]))? * noise("direction", &[2, 3, 3]))?.sum_all()
        });
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (vars, [fused, _]) = both(&[70, 40, 32], 32, true);
        assert_threads_agree(&vars, &fused);
    }

    #[test]
    fn inputs_may_be_strided_and_empty() {
        let (x, weight) = (noise("x", &[4, 6, 5]), noise("weight", &[3, 5]));
        let part = x.narrow(1, 2, 3).unwrap();
        let (a, b) = (linear(&part, &weight, None).unwrap(), linear_plain(&part, &weight, None).unwrap());
        assert_close(&values(&a), &values(&b), 1e-5);
        let none = linear(&x.narrow(1, 0, 0).unwrap(), &weight, None).unwrap();
        assert_eq!(none.dims(), [4, 0, 3]);
    }

    #[test]
    fn misfitting_shapes_are_refused() {
        let (x, weight) = (noise("x", &[3, 5]), noise("weight", &[2, 4]));
        assert!(linear(&x, &weight, None).is_err());
        assert!(linear(&x, &noise("weight", &[2, 5]), Some(&noise("bias", &[3]))).is_err());
        assert!(linear(&x, &noise("weight", &[5]), None).is_err());
    }
}
