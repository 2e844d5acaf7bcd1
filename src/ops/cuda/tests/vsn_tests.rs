use std::cell::RefCell;

use candle_core::{Device, Var};

use super::device_tests::gpu;
use super::*;
use crate::ops::Dropout;
use crate::ops::check::noise;
use crate::ops::cuda::vsn::{Inputs, Vsn};
use crate::ops::vsn::collapse::Collapsed;
use crate::ops::vsn::tile::Sizes;
use crate::ops::vsn::weights::{GrnWeights, ResampleWeights, VariableWeights, VsnWeights};
use crate::ops::vsn::{VsnInput, masks, vsn_fused};

/// Parameters of a selection, made on a device as they are asked for.
struct Maker {
    device: Device,
    vars: RefCell<Vec<Var>>,
}

impl Maker {
    fn on(device: Device) -> Self {
        Maker { device, vars: RefCell::new(Vec::new()) }
    }

    fn tensor(&self, shape: &[usize]) -> Tensor {
        let mut vars = self.vars.borrow_mut();
        let values = (noise(&format!("p{}", vars.len()), shape) * 0.5).unwrap();
        vars.push(Var::from_tensor(&values.to_device(&self.device).unwrap()).unwrap());
        vars.last().unwrap().as_tensor().clone()
    }

    fn pair(&self, weight: &[usize], bias: usize) -> (Tensor, Tensor) {
        (self.tensor(weight), self.tensor(&[bias]))
    }

    fn resample(&self, n: usize) -> ResampleWeights {
        ResampleWeights { mask: self.tensor(&[n]), norm: self.pair(&[n], n) }
    }

    fn grn(&self, from: usize, hidden: usize, to: usize) -> GrnWeights {
        GrnWeights {
            first: self.pair(&[hidden, from], hidden),
            second: self.pair(&[hidden, hidden], hidden),
            gate: self.pair(&[2 * to, hidden], 2 * to),
            norm: self.pair(&[to], to),
            resample: (from != to).then(|| self.resample(to)),
        }
    }

    /// `n_categoricals`, then reals with embeddings of these widths.
    fn selection(&self, n_categoricals: usize, widths: &[usize], hidden: usize) -> VsnWeights {
        let categoricals = (0..n_categoricals).map(|c| VariableWeights::Categorical {
            column: n_categoricals - 1 - c,
            table: self.tensor(&[4 + c, 3 + 2 * c]),
            resample: self.resample(hidden),
        });
        let mut variables: Vec<VariableWeights> = categoricals.collect();
        variables.extend(widths.iter().enumerate().map(|(r, &width)| VariableWeights::Real {
            column: (r + 1) % (widths.len() + 1),
            line: self.pair(&[width, 1], width),
            grn: self.grn(width, width.min(hidden), hidden),
        }));
        let joined = (0..n_categoricals).map(|c| 3 + 2 * c).chain(widths.iter().copied()).sum();
        let n = variables.len();
        VsnWeights { variables, joint: self.grn(joined, hidden.min(n), n) }
    }
}

#[track_caller]
fn case(
    n_categoricals: usize,
    widths: &[usize],
    hidden: usize,
    (n_samples, n_steps): (usize, usize),
    rate: f64,
) {
    let maker = Maker::on(Device::Cpu);
    let weights = maker.selection(n_categoricals, widths, hidden);
    let n_reals = widths.len() + 1;
    let reals = noise("reals", &[n_samples, n_steps, n_reals]);
    let codes: Vec<u32> =
        (0..n_samples * n_steps * n_categoricals).map(|i| (i * 7 % 11 % 4) as u32).collect();
    let codes_tensor =
        Tensor::from_vec(codes.clone(), (n_samples, n_steps, n_categoricals), &Device::Cpu).unwrap();
    let joint_hidden = weights.joint.second.0.dim(0).unwrap();
    let context = Var::from_tensor(&noise("context", &[n_samples, joint_hidden])).unwrap();
    let (parameters, packed) = weights.pack().unwrap();
    let direction = noise("direction", &[n_samples, n_steps, hidden]);

    let input = VsnInput { reals: &reals, codes: &codes_tensor, context: Some(&context) };
    let (selected, shares) = vsn_fused(&input, &weights, &Dropout::new(rate, 3, 4)).unwrap();
    let grads = (&selected * &direction).unwrap().sum_all().unwrap().backward().unwrap();
    // The gradients of the parameters, in the order in which they are packed.
    let vars = maker.vars.borrow();
    let of_parameters = vars.iter().flat_map(|var| values(grads.get(var).unwrap())).collect();
    let expected = [values(&selected), values(&shares), values(grads.get(&context).unwrap()), of_parameters];

    let collapsed = Collapsed::of(&packed);
    let masks = masks(&packed, &Dropout::new(rate, 3, 4));
    let sizes = Sizes { n_groups: n_samples, n_rows: n_steps, n_reals, n_codes: n_categoricals, hidden };
    let vsn = Vsn { sizes, collapsed: &collapsed, masks: masks.as_deref() };
    let parameters = values(&parameters);
    assert_twins(&expected, 3e-5, |bench| {
        let values_memory = bench.machine.write_reals(&collapsed.values(&packed, &parameters));
        let inputs = Inputs {
            reals: bench.put(&reals),
            codes: bench.machine.write(&codes),
            context: bench.put(&context),
            values: values_memory,
        };
        let d_selected = bench.put(&direction);
        let [selected, shares] = vsn.forward(&mut bench.machine, inputs)?;
        let [d_context, d_values] = vsn.backward(&mut bench.machine, inputs, shares, d_selected)?;
        let d_values = bench.get(d_values);
        let expanded = collapsed.expand(&packed, &parameters, &d_values);
        Ok(vec![bench.get(selected), bench.get(shares), bench.get(d_context), expanded])
    });
}

#[test]
fn selections_equal_their_twin() {
    case(0, &[1, 1], 1, (1, 1), 0.0);
    case(1, &[4, 4, 4], 3, (5, 7), 0.3);
    case(2, &[], 5, (2, 33), 0.2);
    case(1, &[16, 3, 7], 16, (1, 33), 0.4);
    case(2, &[5; 5], 20, (2, 40), 0.0);
    case(0, &[33, 2], 33, (1, 40), 0.1);
}

#[test]
fn a_gpu_selects_as_the_cpu_does() {
    let Some(gpu) = gpu() else { return };
    let (n_samples, n_steps) = (40, 33);
    let on = |device: &Device| {
        let maker = Maker::on(device.clone());
        let weights = maker.selection(1, &[16; 7], 32);
        let there = |tensor: Tensor| tensor.to_device(device).unwrap();
        let codes: Vec<u32> = (0..n_samples * n_steps).map(|i| (i * 7 % 11 % 4) as u32).collect();
        let codes = there(Tensor::from_vec(codes, (n_samples, n_steps, 1), &Device::Cpu).unwrap());
        let reals = there(noise("reals", &[n_samples, n_steps, 8]));
        let context = Var::from_tensor(&there(noise("context", &[n_samples, 8]))).unwrap();
        let input = VsnInput { reals: &reals, codes: &codes, context: Some(&context) };
        let (selected, shares) = vsn_fused(&input, &weights, &Dropout::new(0.2, 3, 4)).unwrap();
        let direction = there(noise("direction", &[n_samples, n_steps, 32]));
        let grads = (&selected * direction).unwrap().sum_all().unwrap().backward().unwrap();
        let vars = maker.vars.borrow();
        let grads = vars.iter().chain([&context]).map(|var| values(grads.get(var).unwrap()));
        [values(&selected), values(&shares)].into_iter().chain(grads).collect::<Vec<_>>()
    };
    assert_all_close(&on(&gpu), &on(&Device::Cpu), 5e-5);
}
