use candle_core::{Device, Var};

use super::device_tests::gpu;
use super::*;
use crate::ops::Dropout;
use crate::ops::check::noise;
use crate::ops::cuda::collapse::{self, Collapse};
use crate::ops::cuda::vsn::{Inputs, Vsn};
use crate::ops::dropout::key_of_step;
use crate::ops::vsn::collapse::{Collapsed, TableRows};
use crate::ops::vsn::tests::Case;
use crate::ops::vsn::tile::Sizes;
use crate::ops::vsn::weights::PackedCategorical;
use crate::ops::vsn::{VsnInput, masks as masks_of, vsn_fused};

#[track_caller]
fn case(
    n_categoricals: usize,
    widths: &[usize],
    hidden: usize,
    (n_samples, n_steps): (usize, usize),
    rate: f64,
) {
    let built = Case::new(n_categoricals, widths, hidden).unwrap();
    let packed = built.weights.packed.clone();
    let n_reals = widths.len() + 1;
    let reals = noise("reals", &[n_samples, n_steps, n_reals]);
    let codes: Vec<u32> =
        (0..n_samples * n_steps * n_categoricals).map(|i| (i * 7 % 11 % 4) as u32).collect();
    let codes_tensor =
        Tensor::from_vec(codes.clone(), (n_samples, n_steps, n_categoricals), &Device::Cpu).unwrap();
    let context = Var::from_tensor(&noise("context", &[n_samples, packed.joint.sizes.hidden])).unwrap();
    let direction = noise("direction", &[n_samples, n_steps, hidden]);

    let input = VsnInput { reals: &reals, codes: &codes_tensor, context: Some(&context) };
    let twin = || {
        let (selected, shares) = vsn_fused(&input, &built.weights, &Dropout::new(rate, 3, 4)).unwrap();
        let grads = (&selected * &direction).unwrap().sum_all().unwrap().backward().unwrap();
        let of_parameters = built.vars.iter().flat_map(|var| values(grads.get(var).unwrap())).collect();
        vec![values(&selected), values(&shares), values(grads.get(&context).unwrap()), of_parameters]
    };

    let n_rows = n_samples * n_steps;
    let is_by_step = |one: &PackedCategorical| one.table.shape[0] > n_rows;
    let rows = packed.categoricals.iter().map(|one| match is_by_step(one) {
        true => TableRows::StepsOnDevice(n_rows),
        false => TableRows::Codes,
    });
    let collapsed = Collapsed::of(&packed, &rows.collect::<Vec<_>>());
    let masks = masks_of(&packed, &Dropout::new(rate, 3, 4));
    let sizes = Sizes { n_groups: n_samples, n_rows: n_steps, n_reals, n_codes: n_categoricals, hidden };
    let vsn = Vsn { sizes, collapsed: &collapsed, masks: masks.as_deref() };
    let [own, common] = built.vars.each_ref().map(|var| values(var));
    assert_rounded_twins(twin, 3e-5, |bench| {
        let [own, common] = [&own, &common].map(|values| bench.machine.write_reals(values));
        let codes = bench.machine.write(&codes);
        let parameters = collapse::Inputs { own, common, codes };
        let collapse = Collapse { packed: &packed, collapsed: &collapsed, n_columns: n_categoricals };
        let values = collapse.values(&mut bench.machine, parameters)?;
        let inputs = Inputs { reals: bench.put(&reals), codes, context: bench.put(&context), values };
        let d_selected = bench.put(&direction);
        // Keys of masks may lie on the machine just as well.
        let key = key_of_step(3, 4).number_of_stream();
        let key_at = bench.machine.write(&[key as u32, (key >> 32) as u32]).address;
        let planned = masks_of(&packed, &Dropout::on_device(rate, key_at));
        let planned = Vsn { masks: planned.as_deref(), ..vsn };
        let [again, _] = planned.forward(&mut bench.machine, inputs)?;
        let [selected, shares] = vsn.forward(&mut bench.machine, inputs)?;
        assert_eq!(bench.get(again), bench.get(selected));
        let [d_context, d_values] = vsn.backward(&mut bench.machine, inputs, shares, d_selected)?;
        let grads = collapse.expand(&mut bench.machine, parameters, d_values)?;
        let expanded = grads.map(|grads| bench.get(grads)).concat();
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
    case(3, &[4, 4], 6, (1, 3), 0.1);
}

#[test]
fn a_gpu_selects_as_the_cpu_does() {
    let Some(gpu) = gpu() else { return };
    let (n_samples, n_steps) = (40, 33);
    let on = |device: &Device| {
        let Case { weights, vars } = Case::on(device, 1, &[16; 7], 32).unwrap();
        let there = |tensor: Tensor| tensor.to_device(device).unwrap();
        let codes: Vec<u32> = (0..n_samples * n_steps).map(|i| (i * 7 % 11 % 4) as u32).collect();
        let codes = there(Tensor::from_vec(codes, (n_samples, n_steps, 1), &Device::Cpu).unwrap());
        let reals = there(noise("reals", &[n_samples, n_steps, 8]));
        let context = Var::from_tensor(&there(noise("context", &[n_samples, 8]))).unwrap();
        let input = VsnInput { reals: &reals, codes: &codes, context: Some(&context) };
        let (selected, shares) = vsn_fused(&input, &weights, &Dropout::new(0.2, 3, 4)).unwrap();
        let direction = there(noise("direction", &[n_samples, n_steps, 32]));
        let grads = (&selected * direction).unwrap().sum_all().unwrap().backward().unwrap();
        let grads = vars.iter().chain([&context]).map(|var| values(grads.get(var).unwrap()));
        [values(&selected), values(&shares)].into_iter().chain(grads).collect::<Vec<_>>()
    };
    assert_all_close(&on(&gpu), &on(&Device::Cpu), 5e-5);
}

/// The host does not look at codes that lie on a device: a step with one beyond its table is no number, and no other is.
#[test]
fn an_unknown_code_breaks_its_step_alone() {
    let built = Case::new(1, &[3, 4], 5).unwrap();
    let packed = &built.weights.packed;
    let collapsed = Collapsed::of(packed, &[TableRows::Codes]);
    let sizes = Sizes { n_groups: 1, n_rows: 40, n_reals: 3, n_codes: 1, hidden: 5 };
    let machine = Emulation::start(Order::Up, SHARED[0]);
    let Some(mut bench) = machine.map(|machine| Bench { machine }) else { return };
    let mut codes = vec![1u32; 40];
    codes[33] = 9;
    let codes = bench.machine.write(&codes);
    let [own, common] = built.vars.each_ref().map(|var| bench.put(var));
    let collapse = Collapse { packed, collapsed: &collapsed, n_columns: 1 };
    let values = collapse.values(&mut bench.machine, collapse::Inputs { own, common, codes }).unwrap();
    let reals = bench.put(&noise("reals", &[40, 3]));
    let context = bench.machine.write_reals(&vec![0.0; packed.joint.sizes.hidden]);
    let vsn = Vsn { sizes, collapsed: &collapsed, masks: None };
    let [selected, _] = vsn.forward(&mut bench.machine, Inputs { reals, codes, context, values }).unwrap();
    for (row, selected) in bench.get(selected).chunks(5).enumerate() {
        assert_eq!(selected.iter().all(|value| value.is_finite()), row != 33, "step {row}");
    }
}
