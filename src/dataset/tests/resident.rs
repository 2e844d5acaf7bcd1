//! Batches that are gathered on a device are those of the host, to the bit: the kernels run in their emulation.

use super::*;
use crate::ops::cuda::gather::{Gathered, Inputs};
use crate::ops::cuda::machine::Memory;
use crate::ops::cuda::tests::{Emulation, Order, SHARED};

/// A window with holes, lone values, infinities and statuses, whose metrics stand in another order than the lineage's.
fn patchy() -> Dataset {
    let mut grid = grid(&["db1", "db2", "web1"]);
    for (server, step, value) in [
        (0, 30, f32::NAN),
        (0, 31, f32::NAN),
        (0, 32, f32::NAN),
        (0, 33, f32::NAN),
        (1, 50, f32::INFINITY),
        (2, 0, f32::NAN),
    ] {
        set(&mut grid, server, step, value);
    }
    grid.values[(N_STEPS + 40) * 3 + 1] = f32::NAN;
    grid.values[(2 * N_STEPS + 60) * 3] = 1e30;
    let fitted = fit(&grid);
    for row in grid.values.chunks_exact_mut(3) {
        row.swap(0, 2);
    }
    grid.metrics.swap(0, 2);
    grid.servers[2].name = "web9".into();
    Dataset::new(grid, fitted, 2).unwrap()
}

struct OnDevice {
    machine: Emulation,
    inputs: Inputs,
}

impl OnDevice {
    /// `None` where there is no emulation.
    fn put(dataset: &Dataset, order: Order) -> Option<Self> {
        let mut machine = Emulation::start(order, SHARED[0])?;
        let parts = dataset.parts().unwrap();
        let inputs = Inputs {
            values: machine.write_reals(&dataset.grid.values),
            statuses: machine.write(&parts.statuses),
            calendar: machine.write_reals(&dataset.calendar),
            codes: machine.write(&parts.codes),
            stats: machine.write_reals(&parts.stats),
            statics: machine.write_reals(&parts.statics),
        };
        Some(OnDevice { machine, inputs })
    }

    fn words(&mut self, memory: Memory) -> Vec<u32> {
        self.machine.download(memory).into_iter().map(f32::to_bits).collect()
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let flat = tensor.flatten_all().unwrap();
    match flat.dtype() {
        candle_core::DType::U32 => flat.to_vec1().unwrap(),
        _ => flat.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect(),
    }
}

#[test]
fn a_batch_on_a_device_is_that_of_the_host_to_the_bit() {
    let dataset = patchy();
    let cutoffs = [ENCODER, 31, 33, 34, 36, 47, 52, 64, N_STEPS - 2, N_STEPS];
    let keys: Vec<SampleKey> =
        (0..3).flat_map(|server| cutoffs.map(|cutoff| SampleKey::new(server, cutoff))).collect();
    let is_stranger = |at: usize| at % 4 == 1;
    let batch = dataset.batch_with_strangers(&keys, is_stranger, &Device::Cpu).unwrap();
    let samples: Vec<u32> = keys
        .iter()
        .enumerate()
        .flat_map(|(at, key)| [2 * key.server + u32::from(is_stranger(at)), key.cutoff])
        .collect();
    let flat = |tensors: &[Tensor]| tensors.iter().flat_map(bits).collect::<Vec<_>>();
    let input = &batch.input;
    let expected = [
        bits(&input.encoder_cont),
        bits(&input.decoder_cont),
        bits(&input.encoder_cat),
        bits(&input.decoder_cat),
        flat(&batch.targets),
        flat(&batch.weights),
        flat(&batch.units),
    ];
    assert!(expected[5].contains(&0) && expected[5].contains(&1f32.to_bits()), "some points are missing");
    for order in [Order::Up, Order::Down] {
        let Some(mut device) = OnDevice::put(&dataset, order) else { return };
        let samples = device.machine.write(&samples);
        let window = dataset.parts().unwrap().window;
        let made = window.gather(&mut device.machine, device.inputs, (samples, keys.len())).unwrap();
        let Gathered { reals, codes, truths, weights, units } = made;
        let found = [reals[0], reals[1], codes[0], codes[1], truths, weights, units];
        for (i, (memory, expected)) in found.into_iter().zip(&expected).enumerate() {
            let found = device.words(memory);
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!((found.len(), differs), (expected.len(), None), "part {i}");
        }
    }
}

#[test]
fn codes_are_checked_once_for_all_batches() {
    let mut dataset = patchy();
    assert!(dataset.parts().is_ok());
    dataset.status_codes[1] = 9;
    let error = dataset.parts().err().unwrap().to_string();
    assert!(error.contains("a status code beyond the vocabulary of 2 names"), "{error}");
}
