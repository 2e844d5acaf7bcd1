use candle_core::{D, Var};
use candle_nn::ops::sigmoid;

use super::weights::{GrnWeights, LinearWeights, ResampleWeights, VariableWeights};
use super::*;
use crate::ops::check::{assert_close, noise, values};
use crate::ops::grn::grn_plain;
use crate::ops::layer_norm::layer_norm_plain;
use crate::ops::softmax::softmax;
use crate::ops::stretch::{matrix, stretch};

/// A selection over `n_categoricals` and then `n_reals`, and its variables.
struct Case {
    weights: VsnWeights,
    vars: Vec<Var>,
}

impl Case {
    fn new(n_categoricals: usize, widths: &[usize], hidden: usize) -> Self {
        let mut case = Builder { vars: Vec::new() };
        let mut variables = Vec::new();
        for c in 0..n_categoricals {
            let (n_codes, width) = (4 + c, 3 + 2 * c);
            let table = case.tensor(&[n_codes, width]);
            let resample = case.resample(hidden);
            variables.push(VariableWeights::Categorical { column: n_categoricals - 1 - c, table, resample });
        }
        for (r, &width) in widths.iter().enumerate() {
            let line = (case.tensor(&[width, 1]), case.tensor(&[width]));
            let grn = case.grn(width, width.min(hidden), hidden);
            variables.push(VariableWeights::Real { column: (r + 1) % (widths.len() + 1), line, grn });
        }
        let n = variables.len();
        let width = (0..n_categoricals).map(|c| 3 + 2 * c).chain(widths.iter().copied()).sum();
        let joint = case.grn(width, hidden.min(n), n);
        Case { weights: VsnWeights { variables, joint }, vars: case.vars }
    }
}

struct Builder {
    vars: Vec<Var>,
}

impl Builder {
    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values = (noise(&format!("p{}", self.vars.len()), shape) * 0.5).unwrap();
        self.vars.push(Var::from_tensor(&values).unwrap());
        self.vars.last().unwrap().as_tensor().clone()
    }

    fn pair(&mut self, out: usize, n_in: usize) -> LinearWeights {
        (self.tensor(&[out, n_in]), self.tensor(&[out]))
    }

    fn norm(&mut self, n: usize) -> LinearWeights {
        (self.tensor(&[n]), self.tensor(&[n]))
    }

    fn resample(&mut self, n: usize) -> ResampleWeights {
        ResampleWeights { mask: self.tensor(&[n]), norm: self.norm(n) }
    }

    fn grn(&mut self, from: usize, hidden: usize, to: usize) -> GrnWeights {
        GrnWeights {
            first: self.pair(hidden, from),
            second: self.pair(hidden, hidden),
            gate: self.pair(2 * to, hidden),
            norm: self.norm(to),
            resample: (from != to).then(|| self.resample(to)),
        }
    }
}

fn linear(x: &Tensor, (weight, bias): &LinearWeights) -> Tensor {
    x.broadcast_matmul(&weight.t().unwrap()).unwrap().broadcast_add(bias).unwrap()
}

fn resampled(x: &Tensor, weights: &ResampleWeights) -> Tensor {
    let m = matrix(x.dim(D::Minus1).unwrap(), weights.mask.dim(0).unwrap(), x.device()).unwrap();
    let gate = (sigmoid(&weights.mask).unwrap() * 2.0).unwrap();
    let x = stretch(x, &m).unwrap().broadcast_mul(&gate).unwrap();
    layer_norm_plain(&x, &weights.norm.0, &weights.norm.1).unwrap()
}

fn plain(input: &VsnInput<'_>, weights: &VsnWeights, dropout: &Dropout) -> (Tensor, Tensor) {
    let (n_samples, n_steps, _) = input.reals.dims3().unwrap();
    let (mut embedded, mut processed) = (Vec::new(), Vec::new());
    for variable in &weights.variables {
        match variable {
            VariableWeights::Real { column, line, grn: weights } => {
                let x = linear(&input.reals.narrow(2, *column, 1).unwrap().contiguous().unwrap(), line);
                processed.push(grn_plain(&x, None, weights, dropout.site()).unwrap());
                embedded.push(x);
            }
            VariableWeights::Categorical { column, table, resample } => {
                let codes = input.codes.narrow(2, *column, 1).unwrap().flatten_all().unwrap();
                let x = table.index_select(&codes, 0).unwrap().reshape((n_samples, n_steps, ())).unwrap();
                processed.push(resampled(&x, resample));
                embedded.push(x);
            }
        }
    }
    let joined = Tensor::cat(&embedded, D::Minus1).unwrap();
    let shares =
        softmax(&grn_plain(&joined, input.context, &weights.joint, dropout.site()).unwrap()).unwrap();
    let stacked = Tensor::stack(&processed, 2).unwrap();
    let selected = stacked.broadcast_mul(&shares.unsqueeze(3).unwrap()).unwrap().sum(2).unwrap();
    (selected, shares)
}

/// Selection, weights and all gradients; the context is the last variable.
fn run(
    case: &Case,
    (n_samples, n_steps): (usize, usize),
    (n_categoricals, n_reals): (usize, usize),
    has_context: bool,
    rate: f64,
    form: impl Fn(&VsnInput<'_>, &VsnWeights, &Dropout) -> (Tensor, Tensor),
) -> Vec<Vec<f32>> {
    let reals = noise("reals", &[n_samples, n_steps, n_reals + 1]);
    let codes: Vec<u32> =
        (0..n_samples * n_steps * n_categoricals).map(|i| (i * 7 % 11 % 4) as u32).collect();
    let codes = Tensor::from_vec(codes, (n_samples, n_steps, n_categoricals), &Device::Cpu).unwrap();
    let hidden = case.weights.joint.second.0.dim(0).unwrap();
    let context = Var::from_tensor(&noise("context", &[n_samples, hidden])).unwrap();
    let input =
        VsnInput { reals: &reals, codes: &codes, context: has_context.then_some(context.as_tensor()) };
    let (selected, shares) = form(&input, &case.weights, &Dropout::new(rate, 3, 4));
    let direction = noise("direction", selected.dims());
    let loss = (&selected * direction).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let mut all = vec![values(&selected), values(&shares)];
    all.extend(case.vars.iter().map(|var| values(grads.get(var).expect("a gradient"))));
    if has_context {
        all.push(values(grads.get(&context).expect("a gradient of the context")));
    }
    all
}

fn fused(input: &VsnInput<'_>, weights: &VsnWeights, dropout: &Dropout) -> (Tensor, Tensor) {
    vsn_fused(input, weights, dropout).unwrap()
}

#[test]
fn it_equals_the_plain_composition_in_value_and_every_gradient() {
    for (n_categoricals, widths, hidden, shape, has_context, rate) in [
        (1, &[4, 4, 4][..], 8, (3, 5), true, 0.0),
        (0, &[4, 4], 8, (1, 1), true, 0.3),
        (2, &[], 5, (2, 33), true, 0.2),
        (1, &[16, 3, 7], 7, (2, 40), true, 0.4),
        (2, &[5; 6], 16, (3, 64), false, 0.1),
        (0, &[1, 1, 1], 4, (4, 3), true, 0.0),
        (0, &[4; 21], 4, (2, 32), true, 0.15),
    ] {
        let case = Case::new(n_categoricals, widths, hidden);
        let counts = (n_categoricals, widths.len());
        let a = run(&case, shape, counts, has_context, rate, fused);
        let b = run(&case, shape, counts, has_context, rate, plain);
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            let largest = b.iter().fold(1f32, |m, v| m.max(v.abs()));
            assert!(
                a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-5 * largest),
                "case {counts:?} of {hidden}: tensor {i}"
            );
            assert_close(a, b, 2e-5 * largest);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let case = Case::new(1, &[4; 5], 8);
    let run = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| run(&case, (37, 9), (1, 5), true, 0.2, fused))
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn codes_beyond_a_table_and_lone_variables_are_refused() {
    let case = Case::new(1, &[4], 8);
    let reals = noise("reals", &[1, 1, 2]);
    let codes = Tensor::new(&[[[4u32]]], &Device::Cpu).unwrap();
    let input = VsnInput { reals: &reals, codes: &codes, context: None };
    assert!(vsn_fused(&input, &case.weights, &Dropout::off()).is_err());
    let lone = Case::new(0, &[4], 8);
    assert!(vsn_fused(&input, &lone.weights, &Dropout::off()).is_err());
}
