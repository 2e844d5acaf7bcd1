//! The gated residual network: how much of a nonlinearity is needed (Lim et al., equations 2 to 4).

use candle_core::{D, Result, Tensor, bail};

use super::dropout::Mask;
use super::gate::{GateWeights, gate_add_norm_plain};
use super::grn_fused::{GrnSizes, grn_fused};
use super::host::has_fused_form;
use super::layer_norm::layer_norm_plain;
use super::linear::linear_plain;
use super::resample::{ResampleWeights, stretch_and_gate};

/// The parameters of a GRN, weight before bias.
#[derive(Clone)]
pub struct GrnWeights {
    /// `[hidden, in]` and `[hidden]`
    pub first: (Tensor, Tensor),
    /// `[hidden, hidden]` and `[hidden]`
    pub second: (Tensor, Tensor),
    /// `[2 out, hidden]` and `[2 out]`
    pub gate: (Tensor, Tensor),
    /// `[out]` each.
    pub norm: (Tensor, Tensor),
    /// Where input and output have different widths.
    pub resample: Option<ResampleWeights>,
}

impl GrnWeights {
    /// - Errors: shapes that do not belong to one GRN.
    pub(super) fn sizes(&self) -> Result<GrnSizes> {
        let (hidden, n_in) = self.first.0.dims2()?;
        let gate = self.tail().sizes()?;
        let n_out = gate.n_out;
        let skip_fits = match &self.resample {
            Some(ResampleWeights { mask, norm }) => {
                [mask, &norm.0, &norm.1].iter().all(|tensor| tensor.dims() == [n_out])
            }
            None => n_in == n_out,
        };
        let fits = n_in > 0
            && gate.n_in == hidden
            && self.first.1.dims() == [hidden]
            && self.second.0.dims() == [hidden, hidden]
            && self.second.1.dims() == [hidden];
        if !fits || !skip_fits {
            bail!("a GRN from {n_in} through {hidden} to {n_out} with parts that do not fit");
        }
        Ok(GrnSizes { n_in, hidden, n_out, resample: self.resample.is_some() })
    }

    /// In the order in which [`super::grn_fused`] packs them.
    pub(super) fn tensors(&self) -> Vec<&Tensor> {
        let layers = [&self.first, &self.second, &self.gate, &self.norm];
        let mut tensors: Vec<&Tensor> = layers.iter().flat_map(|layer| [&layer.0, &layer.1]).collect();
        tensors.extend(self.resample.iter().flat_map(|skip| [&skip.mask, &skip.norm.0, &skip.norm.1]));
        tensors
    }

    fn tail(&self) -> GateWeights {
        GateWeights { gate: self.gate.clone(), norm: self.norm.clone() }
    }
}

/// `LN(GLU(dropout(W2 ELU(W1 x + b1 + context) + b2)) + skip)`, where the skip is `x`, stretched if widths differ.
///
/// - Shapes: `x [B, .., in]`, `context [B, 1, .., hidden]` or `[B, hidden]`, already projected and the same for all
///   rows of a sample -> `[B, .., out]`.
/// - Errors: shapes that do not fit.
pub fn grn(x: &Tensor, context: Option<&Tensor>, weights: &GrnWeights, mask: Option<Mask>) -> Result<Tensor> {
    let GrnSizes { n_in, hidden, .. } = weights.sizes()?;
    let context_fits = context.is_none_or(|context| {
        let (n_samples, rank) = (x.dims().first().copied().unwrap_or(0), context.rank());
        context.dims().first() == Some(&n_samples)
            && context.dims().last() == Some(&hidden)
            && context.elem_count() == n_samples * hidden
            && (rank == 2 || rank == x.rank())
    });
    if x.rank() < 2 || x.dim(D::Minus1)? != n_in || !context_fits {
        bail!("a GRN from {n_in} with inputs {:?} and context {:?}", x.dims(), context.map(Tensor::dims));
    }
    if has_fused_form(x) {
        grn_fused(x, context, weights, mask)
    } else {
        grn_plain(x, context, weights, mask)
    }
}

/// [`grn`] in tensor operations, on any device and in any precision.
pub fn grn_plain(
    x: &Tensor,
    context: Option<&Tensor>,
    weights: &GrnWeights,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let skip = match &weights.resample {
        Some(ResampleWeights { mask, norm }) => {
            layer_norm_plain(&stretch_and_gate(x, mask)?, &norm.0, &norm.1)?
        }
        None => x.clone(),
    };
    let mut inner = linear_plain(x, &weights.first.0, Some(&weights.first.1))?;
    if let Some(context) = context {
        let mut shape = vec![1; x.rank()];
        (shape[0], shape[x.rank() - 1]) = (x.dim(0)?, context.dim(D::Minus1)?);
        inner = inner.broadcast_add(&context.reshape(shape)?)?;
    }
    let outer = linear_plain(&inner.elu(1.0)?, &weights.second.0, Some(&weights.second.1))?;
    gate_add_norm_plain(&outer, &skip, &weights.tail(), mask)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::ops::Dropout;
    use crate::ops::check::*;

    /// `x`, the parameters, and the context if there is one; weights are small enough for a network at work.
    fn all_vars(outer: &[usize], [n_in, hidden, n_out]: [usize; 3], context: Option<&[usize]>) -> Vec<Var> {
        let x = [outer, &[n_in]].concat();
        let mut all = vars(&[
            ("x", &x),
            ("first.weight", &[hidden, n_in]),
            ("first.bias", &[hidden]),
            ("second.weight", &[hidden, hidden]),
            ("second.bias", &[hidden]),
            ("gate.weight", &[2 * n_out, hidden]),
            ("gate.bias", &[2 * n_out]),
            ("norm.weight", &[n_out]),
            ("norm.bias", &[n_out]),
            ("mask", &[n_out]),
            ("resample.weight", &[n_out]),
            ("resample.bias", &[n_out]),
        ]);
        for (i, fan_in) in [(1, n_in), (3, hidden), (5, hidden)] {
            all[i].set(&(all[i].as_tensor() / (fan_in as f64).sqrt()).unwrap()).unwrap();
        }
        if n_in == n_out {
            all.truncate(9);
        }
        all.extend(context.map(|shape| vars(&[("context", shape)])).into_iter().flatten());
        all
    }

    type Form = fn(&Tensor, Option<&Tensor>, &GrnWeights, Option<Mask>) -> Result<Tensor>;

    /// A form of the operation on such variables.
    fn run(form: Form, vars: &[Var], has_context: bool, mask: Option<Mask>) -> Result<Tensor> {
        let (context, rest) = match has_context {
            true => vars.split_last().map(|(last, rest)| (Some(last.as_tensor()), rest)).unwrap(),
            false => (None, vars),
        };
        let pair = |i: usize| (rest[i].as_tensor().clone(), rest[i + 1].as_tensor().clone());
        let resample =
            (rest.len() > 9).then(|| ResampleWeights { mask: rest[9].as_tensor().clone(), norm: pair(10) });
        let weights = GrnWeights { first: pair(1), second: pair(3), gate: pair(5), norm: pair(7), resample };
        form(&rest[0], context, &weights, mask)
    }

    fn masks() -> [Option<Mask>; 2] {
        [None, Dropout::new(0.3, 4, 2).site()]
    }

    #[track_caller]
    fn case(outer: &[usize], widths: [usize; 3], context: Option<&[usize]>) {
        let has_context = context.is_some();
        for mask in masks() {
            let vars = all_vars(outer, widths, context);
            let fused = |v: &[Var]| run(grn_fused, v, has_context, mask).unwrap();
            let plain = |v: &[Var]| run(grn_plain, v, has_context, mask).unwrap();
            assert_forms_agree(&vars, &fused, &plain, 2e-5);
        }
    }

    #[test]
    fn the_fused_form_equals_the_plain_one_in_value_and_every_gradient() {
        case(&[1], [1, 1, 1], None);
        case(&[3], [5, 5, 16], None);
        case(&[17], [22, 16, 5], None);
        case(&[33], [1, 1, 32], None);
        case(&[2, 32], [32, 32, 32], None);
        case(&[3, 32], [64, 22, 22], None);
        case(&[5, 40], [64, 16, 1], None);
        case(&[40, 20], [16, 16, 16], None);
    }

    #[test]
    fn a_context_is_that_of_its_sample() {
        case(&[1, 1], [5, 16, 5], Some(&[1, 1, 16]));
        case(&[3, 17], [16, 16, 16], Some(&[3, 1, 16]));
        case(&[33], [22, 5, 22], Some(&[33, 5]));
        case(&[20, 40], [32, 22, 32], Some(&[20, 1, 22]));
        case(&[2, 33], [64, 14, 14], Some(&[2, 14]));
        case(&[2, 3, 7], [16, 32, 64], Some(&[2, 1, 1, 32]));
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let vars = all_vars(&[2, 3], [4, 3, 5], Some(&[2, 1, 3]));
        for mask in masks() {
            assert_gradients(&vars, 4e-3, || {
                (run(grn, &vars, true, mask)? * noise("direction", &[2, 3, 5]))?.sum_all()
            });
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let [_, mask] = masks();
        for context in [None, Some(&[40, 1, 22][..])] {
            let vars = all_vars(&[40, 50], [16, 22, 16], context);
            let form = |v: &[Var]| run(grn_fused, v, context.is_some(), mask).unwrap();
            assert_threads_agree(&vars, &form);
        }
    }

    #[test]
    fn misfitting_shapes_are_refused() {
        let refused = |x: &[usize], context: &[usize]| {
            let mut vars = all_vars(&[1], [4, 3, 5], Some(context));
            vars[0] = Var::from_tensor(&noise("x", x)).unwrap();
            run(grn, &vars, true, None).is_err()
        };
        assert!(!refused(&[2, 6, 4], &[2, 1, 3]));
        assert!(refused(&[2, 6, 4], &[2, 6, 3]), "one context per row");
        assert!(refused(&[2, 6, 4], &[3, 1, 3]), "one sample more");
        assert!(refused(&[2, 6, 4], &[2, 1, 4]), "too wide a context");
        assert!(refused(&[2, 6, 5], &[2, 1, 3]), "too wide an input");
        let mut vars = all_vars(&[2], [4, 3, 5], None);
        vars[8] = Var::from_tensor(&noise("norm.bias", &[4])).unwrap();
        assert!(run(grn, &vars, false, None).is_err(), "a narrow norm");
    }
}
