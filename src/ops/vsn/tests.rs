use std::ops::Range;

use candle_core::{D, Var};
use candle_nn::ops::sigmoid;

use super::weights::{PackedCategorical, PackedGrn, PackedResample, Slot, Variable};
use super::*;
use crate::ops::check::{assert_close, noise, values};
use crate::ops::grn::grn_plain;
use crate::ops::grn_fused::Grn;
use crate::ops::layer_norm::layer_norm_plain;
use crate::ops::softmax::softmax;
use crate::ops::stretch::{matrix, stretch};
use crate::ops::{GrnSizes, GrnWeights, ResampleWeights};

/// A selection over `n_categoricals` and then reals with embeddings of these widths, with all its parameters.
pub(crate) struct Case {
    pub weights: VsnWeights,
    /// The own parameters and the common ones.
    pub vars: [Var; 2],
}

impl Case {
    pub fn new(n_categoricals: usize, widths: &[usize], hidden: usize) -> Result<Self> {
        Self::on(&Device::Cpu, n_categoricals, widths, hidden)
    }

    /// Tables and lines are common, and the networks of every other real.
    pub fn on(device: &Device, n_categoricals: usize, widths: &[usize], hidden: usize) -> Result<Self> {
        let n = n_categoricals + widths.len();
        let joined = (0..n_categoricals).map(|c| 3 + 2 * c).chain(widths.iter().copied()).sum();
        let joint = GrnSizes { n_in: joined, hidden: hidden.min(n), n_out: n };
        let single = |width: usize| GrnSizes { n_in: width, hidden: width.min(hidden), n_out: hidden };
        let n_values = |sizes: GrnSizes| Grn::new(sizes, None).n_values();
        let is_own = |r: usize| r.is_multiple_of(2);
        let of_reals = widths.iter().enumerate().map(|(r, &width)| (r, n_values(single(width))));
        let n_own: usize = n_values(joint)
            + 3 * hidden * n_categoricals
            + of_reals.filter(|(r, _)| is_own(*r)).map(|(_, n)| n).sum::<usize>();
        let (mut own, mut common) = (n_values(joint), n_own);
        let take = |end: &mut usize, n: usize| std::mem::replace(end, *end + n);
        let mut variables = Vec::new();
        for c in 0..n_categoricals {
            let (n_codes, width) = (4 + c, 3 + 2 * c);
            variables.push(Variable::Categorical {
                column: n_categoricals - 1 - c,
                table: take(&mut common, n_codes * width),
                n_codes,
                width,
                padded: c == 1,
                resample: take(&mut own, 3 * hidden),
            });
        }
        for (r, &width) in widths.iter().enumerate() {
            let line = take(&mut common, 2 * width);
            let end = if is_own(r) { &mut own } else { &mut common };
            let grn = (take(end, n_values(single(width))), single(width));
            variables.push(Variable::Real { column: (r + 1) % (widths.len() + 1), line, grn });
        }
        assert_eq!(own, n_own);
        let packed = Packed::new(&variables, (0, joint), hidden, [n_own, common - n_own])?;
        let var = |name: &str, n: usize| -> Result<Var> {
            Ok(Var::from_tensor(&(noise(name, &[n]) * 0.5)?.to_device(device)?)?)
        };
        let vars = [var("own", n_own)?, var("common", common - n_own)?];
        let [own, common] = [0, 1].map(|i| vars[i].as_tensor().clone());
        Ok(Case { weights: VsnWeights { own, common, packed: Arc::new(packed) }, vars })
    }
}

impl VsnWeights {
    fn values(&self, range: &Range<usize>) -> Tensor {
        let n_own = self.packed.n_own;
        let (values, start) = match range.start.checked_sub(n_own) {
            None => (&self.own, range.start),
            Some(start) => (&self.common, start),
        };
        values.narrow(0, start, range.len()).unwrap()
    }

    fn tensor(&self, slot: &Slot) -> Tensor {
        self.values(&slot.range).reshape(slot.shape.as_slice()).unwrap()
    }

    fn pair(&self, slots: &[Slot; 2]) -> (Tensor, Tensor) {
        (self.tensor(&slots[0]), self.tensor(&slots[1]))
    }

    fn grn(&self, grn: &PackedGrn) -> GrnWeights {
        GrnWeights::new(self.values(&grn.range), grn.sizes).unwrap()
    }

    fn resample(&self, resample: &PackedResample) -> ResampleWeights {
        ResampleWeights { mask: self.tensor(&resample.mask), norm: self.pair(&resample.norm) }
    }

    /// A table whose first row gets no gradient if it is padded.
    fn table(&self, categorical: &PackedCategorical) -> Tensor {
        let table = self.tensor(&categorical.table);
        match categorical.padded {
            false => table,
            true => {
                let n = table.dim(0).unwrap() - 1;
                let first = table.narrow(0, 0, 1).unwrap().detach();
                Tensor::cat(&[&first, &table.narrow(0, 1, n).unwrap()], 0).unwrap()
            }
        }
    }
}

fn linear(x: &Tensor, (weight, bias): &(Tensor, Tensor)) -> Tensor {
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
    for number in 0..weights.packed.n_variables() {
        let real = weights.packed.reals.iter().find(|real| real.number == number);
        let categorical = weights.packed.categoricals.iter().find(|one| one.number == number);
        if let Some(real) = real {
            let x = input.reals.narrow(2, real.column, 1).unwrap().contiguous().unwrap();
            let x = linear(&x, &weights.pair(&real.line));
            processed.push(grn_plain(&x, None, &weights.grn(&real.grn), dropout.site()).unwrap());
            embedded.push(x);
        }
        if let Some(categorical) = categorical {
            let codes = input.codes.narrow(2, categorical.column, 1).unwrap().flatten_all().unwrap();
            let x = weights.table(categorical).index_select(&codes, 0).unwrap();
            let x = x.reshape((n_samples, n_steps, ())).unwrap();
            processed.push(resampled(&x, &weights.resample(&categorical.resample)));
            embedded.push(x);
        }
    }
    let joined = Tensor::cat(&embedded, D::Minus1).unwrap();
    let shares = softmax(
        &grn_plain(&joined, input.context, &weights.grn(&weights.packed.joint), dropout.site()).unwrap(),
    )
    .unwrap();
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
    let hidden = case.weights.packed.joint.sizes.hidden;
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
        // Tables with more rows than there are steps.
        (3, &[4, 4], 6, (1, 3), true, 0.0),
    ] {
        let case = Case::new(n_categoricals, widths, hidden).unwrap();
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
    let case = Case::new(1, &[4; 5], 8).unwrap();
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
    let case = Case::new(1, &[4], 8).unwrap();
    let reals = noise("reals", &[1, 1, 2]);
    let codes = Tensor::new(&[[[4u32]]], &Device::Cpu).unwrap();
    let input = VsnInput { reals: &reals, codes: &codes, context: None };
    assert!(vsn_fused(&input, &case.weights, &Dropout::off()).is_err());
    assert!(Case::new(0, &[4], 8).is_err());
}
