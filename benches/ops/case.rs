//! One operation at one size: its two forms, the comparison, and the timings.

use std::time::Duration;

use candle_core::{Device, Tensor, Var};
use criterion::{Criterion, Throughput};
use tftctl::benchmark::sgemm;
use tftctl::model::work::Product;
use tftctl::ops::random::Key;

/// Samples in a batch, steps of a sample, and of them steps ahead.
pub const BATCH: usize = 64;
pub const STEPS: usize = 384;
pub const HORIZON: usize = 96;
/// Seed of the dropout masks.
pub const SEED: u64 = 1;

/// The largest difference of two forms, relative to the largest value of a tensor.
const TOLERANCE: f32 = 2e-4;

/// Widths of the network.
#[derive(Clone, Copy)]
pub struct Widths {
    pub hidden: usize,
    pub continuous: usize,
}

type Form = Box<dyn Fn() -> Tensor>;

/// An operation on `vars`, in its product form and, where there is another, its oracle.
pub struct Case {
    pub name: &'static str,
    pub vars: Vec<Var>,
    pub form: Form,
    pub oracle: Option<Form>,
    /// Its matrix products for one sample.
    pub products: Vec<Product>,
    /// Rows it works on, for operations without products.
    pub rows: usize,
}

impl Case {
    pub fn bench(self, criterion: &mut Criterion, hidden: usize) {
        if let Some(oracle) = &self.oracle {
            self.compare(oracle, hidden);
        }
        let flops: u64 = self.products.iter().map(|product| product.flops() * BATCH as u64).sum();
        let count =
            |times: u64| Throughput::Elements(if flops > 0 { flops * times } else { self.rows as u64 });
        let mut group = criterion.benchmark_group(format!("{}/{hidden}", self.name));
        group.throughput(count(1)).bench_function("forward", |b| b.iter(|| (self.form)()));
        group
            .throughput(count(3))
            .bench_function("forward and backward", |b| b.iter(|| backward(&self.form)));
        if let Some(oracle) = &self.oracle {
            group.bench_function("oracle, forward and backward", |b| b.iter(|| backward(oracle)));
        }
        if flops > 0 {
            let floor = |rounds| {
                Duration::from_secs_f64(rounds as f64 * sgemm::floor(&self.products, BATCH, true).secs)
            };
            group.bench_function("sgemm, forward and backward", |b| b.iter_custom(floor));
        }
        group.finish();
    }

    fn compare(&self, oracle: &Form, hidden: usize) {
        let (found, expected) = (self.values(&self.form), self.values(oracle));
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len(), "{}/{hidden}", self.name);
            let largest = expected.iter().fold(1f32, |largest, value| largest.max(value.abs()));
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            let is_close = apart <= TOLERANCE * largest;
            assert!(is_close, "{}/{hidden}: tensor {at} differs by {apart} of {largest}", self.name);
        }
    }

    /// Value and every gradient in a fixed direction.
    fn values(&self, form: &Form) -> Vec<Vec<f32>> {
        let y = form();
        let grads = (&y * noise("direction", y.dims())).unwrap().sum_all().unwrap().backward().unwrap();
        let grads = self.vars.iter().map(|var| grads.get(var).expect("a gradient").clone());
        [y].into_iter().chain(grads).map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
    }
}

fn backward(form: &Form) -> candle_core::backprop::GradStore {
    form().sum_all().unwrap().backward().unwrap()
}

/// The tensor library's own pool would spin beside ours; see `main.rs` of the program.
pub fn one_tensor_thread() {
    // SAFETY: called first of all, before there is another thread that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
}

/// Standard normal values.
pub fn noise(name: &str, shape: &[usize]) -> Tensor {
    let key = Key::new(SEED).name(name);
    let n = shape.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..n).map(|i| key.normal(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Variables of a case, handed out as tensors.
#[derive(Default)]
pub struct Vars(pub Vec<Var>);

impl Vars {
    /// Noise of about the size that weights and activations have.
    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values = (noise(&self.0.len().to_string(), shape) * 0.3).unwrap();
        self.0.push(Var::from_tensor(&values).unwrap());
        self.0.last().unwrap().as_tensor().clone()
    }

    /// Weight and bias of a norm.
    pub fn norm(&mut self, n: usize) -> (Tensor, Tensor) {
        (self.tensor(&[n]), self.tensor(&[n]))
    }
}
