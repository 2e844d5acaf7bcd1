//! The gated residual network: how much of a nonlinearity is needed (Lim et al., equations 2 to 4).

use candle_core::{D, Result, Tensor, bail};

use super::dropout::Mask;
use super::gate::{GateSizes, GateWeights, gate_add_norm_plain};
use super::grn_fused::{Grn, grn_fused};
use super::grn_tile::Pair;
use super::host::has_fused_form;
use super::layer_norm::layer_norm_plain;
use super::linear::matrix_plain;
use super::pack::{ensure_len, view};
use super::resample::stretch_and_gate;

/// Widths of a GRN. Where input and output differ, the skip is stretched.
#[derive(Clone, Copy, Debug)]
pub struct GrnSizes {
    pub n_in: usize,
    pub hidden: usize,
    pub n_out: usize,
}

impl GrnSizes {
    pub fn is_stretched(self) -> bool {
        self.n_in != self.n_out
    }
}

/// The parameters of a GRN: of a stretched skip its mask, weight and bias of its norm, `[out]` each; then weight before bias
/// `[hidden, in]` of the first layer, `[hidden, hidden]` of the second, `[2 out, hidden]` of the gate, and of the norm.
#[derive(Clone)]
pub struct GrnWeights {
    pub(super) values: Tensor,
    pub(super) sizes: GrnSizes,
}

impl GrnWeights {
    /// - Errors: `values` are not those of such a GRN.
    pub fn new(values: Tensor, sizes: GrnSizes) -> Result<Self> {
        if sizes.n_in == 0 || sizes.hidden == 0 || sizes.n_out == 0 {
            bail!("a GRN without features");
        }
        ensure_len(&values, Grn::new(sizes, None).n_values(), "a GRN")?;
        Ok(GrnWeights { values, sizes })
    }
}

/// `LN(GLU(dropout(W2 ELU(W1 x + b1 + context) + b2)) + skip)`, where the skip is `x`, stretched if widths differ.
///
/// - Shapes: `x [B, .., in]`, `context [B, 1, .., hidden]` or `[B, hidden]`, already projected and the same for all
///   rows of a sample -> `[B, .., out]`.
/// - Errors: shapes that do not fit.
pub fn grn(x: &Tensor, context: Option<&Tensor>, weights: &GrnWeights, mask: Option<Mask>) -> Result<Tensor> {
    let GrnSizes { n_in, hidden, .. } = weights.sizes;
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
    let (GrnSizes { n_in, hidden, n_out }, values) = (weights.sizes, &weights.values);
    let Grn { first, tail, skip, .. } = Grn::new(weights.sizes, None);
    let skip = match (&skip, &tail.skip_norm) {
        (Some(places), Some(norm)) => {
            let stretched = stretch_and_gate(x, &view(values, &places.mask, n_out)?)?;
            layer_norm_plain(
                &stretched,
                &view(values, &norm.weight, n_out)?,
                &view(values, &norm.bias, n_out)?,
            )?
        }
        _ => x.clone(),
    };
    let layer = |pair: &Pair, n_in: usize, x: &Tensor| {
        let (weight, bias) = (view(values, &pair.weight, (hidden, n_in))?, view(values, &pair.bias, hidden)?);
        matrix_plain(x, &weight, Some(&bias))
    };
    let mut inner = layer(&first, n_in, x)?;
    if let Some(context) = context {
        let mut shape = vec![1; x.rank()];
        (shape[0], shape[x.rank() - 1]) = (x.dim(0)?, context.dim(D::Minus1)?);
        inner = inner.broadcast_add(&context.reshape(shape)?)?;
    }
    let outer = layer(&tail.second, hidden, &inner.elu(1.0)?)?;
    let gate = tail.gate.weight.start;
    let gate = values.narrow(0, gate, values.elem_count() - gate)?;
    let gate = GateWeights::new(gate, GateSizes { n_in: hidden, n_out })?;
    gate_add_norm_plain(&outer, &skip, &gate, mask)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::ops::Dropout;
    use crate::ops::check::*;

    /// `x`, the parameters, and the context if there is one.
    fn all_vars(outer: &[usize], [n_in, hidden, n_out]: [usize; 3], context: Option<&[usize]>) -> Vec<Var> {
        let mut all = vars(&[("x", &[outer, &[n_in]].concat())]);
        all.push(Var::from_tensor(&grn_noise(GrnSizes { n_in, hidden, n_out })).unwrap());
        all.extend(context.map(|shape| vars(&[("context", shape)])).into_iter().flatten());
        all
    }

    type Form = fn(&Tensor, Option<&Tensor>, &GrnWeights, Option<Mask>) -> Result<Tensor>;

    /// A form of the operation on such variables.
    fn run(
        form: Form,
        vars: &[Var],
        [n_in, hidden, n_out]: [usize; 3],
        mask: Option<Mask>,
    ) -> Result<Tensor> {
        let weights = GrnWeights::new(vars[1].as_tensor().clone(), GrnSizes { n_in, hidden, n_out })?;
        form(&vars[0], vars.get(2).map(|context| context.as_tensor()), &weights, mask)
    }

    fn masks() -> [Option<Mask>; 2] {
        [None, Dropout::new(0.3, 4, 2).site()]
    }

    #[track_caller]
    fn case(outer: &[usize], widths: [usize; 3], context: Option<&[usize]>) {
        for mask in masks() {
            let vars = all_vars(outer, widths, context);
            let fused = |v: &[Var]| run(grn_fused, v, widths, mask).unwrap();
            let plain = |v: &[Var]| run(grn_plain, v, widths, mask).unwrap();
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
                (run(grn, &vars, [4, 3, 5], mask)? * noise("direction", &[2, 3, 5]))?.sum_all()
            });
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let [_, mask] = masks();
        for context in [None, Some(&[40, 1, 22][..])] {
            let vars = all_vars(&[40, 50], [16, 22, 16], context);
            let form = |v: &[Var]| run(grn_fused, v, [16, 22, 16], mask).unwrap();
            assert_threads_agree(&vars, &form);
        }
    }

    #[test]
    fn misfitting_shapes_are_refused() {
        let refused = |x: &[usize], context: &[usize]| {
            let mut vars = all_vars(&[1], [4, 3, 5], Some(context));
            vars[0] = Var::from_tensor(&noise("x", x)).unwrap();
            run(grn, &vars, [4, 3, 5], None).is_err()
        };
        assert!(!refused(&[2, 6, 4], &[2, 1, 3]));
        assert!(refused(&[2, 6, 4], &[2, 6, 3]), "one context per row");
        assert!(refused(&[2, 6, 4], &[3, 1, 3]), "one sample more");
        assert!(refused(&[2, 6, 4], &[2, 1, 4]), "too wide a context");
        assert!(refused(&[2, 6, 5], &[2, 1, 3]), "too wide an input");
        let vars = all_vars(&[2], [4, 3, 5], None);
        assert!(run(grn, &vars, [4, 3, 4], None).is_err(), "parameters of another block");
    }
}
