//! The LSTM layer as an operation with a hand-written backward, for f32.
//!
//! Samples go in tiles ([`super::lstm_tile`]), tiles in parts; the backward reads what the forward left in the
//! operation, which lives as long as the graph does. On a GPU it is the launches of [`super::cuda`] instead.
//! [`super::lstm_plain`] is the oracle.
//!
//! An operation has one output and this layer has three. Two operations share them: [`Layer`] runs the steps and
//! gives the final states; [`Sequence`] stands behind it, gives the sequence that the first one computed, and in the
//! backward leaves the sequence's gradient where the first one finds it. Only the small final states pay for that
//! with a gradient of zeros; slices of one common output would pay with copies of the sequence.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Result;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, Result as CandleResult, Shape, Tensor, bail,
};

use super::cuda;
use super::cuda::lstm::{Lstm, RECORD};
use super::cuda::machine::{Machine, Memory};
use super::host::{contiguous, host_values};
use super::lstm::{LstmOutput, LstmWeights};
use super::lstm_tile::{Backward, Parameters, Samples, Scratch, Sizes, State, StateBuf, Trace};
use super::simd::{ROWS, Simd};
use super::split::{in_parts, sum_in_order};

/// [`super::lstm()`], fused.
///
/// - Errors: anything but f32; shapes that do not fit.
pub fn lstm_fused(
    x: &Tensor,
    weights: &LstmWeights,
    hidden: &Tensor,
    cell: &Tensor,
    lengths: Option<&[usize]>,
) -> Result<LstmOutput> {
    let (n_samples, n_steps, _) = x.dims3()?;
    let parameters = weights.values.contiguous()?;
    let start = Tensor::stack(&[hidden, cell], 0)?;
    let lengths = lengths.map_or_else(|| vec![n_steps; n_samples], <[usize]>::to_vec);
    let keep = x.track_op() || parameters.track_op() || start.track_op();
    let shared = Arc::new(Shared::default());
    let (traces, record) = (OnceLock::new(), OnceLock::new());
    let layer = Layer { lengths, keep, traces, record, shared: shared.clone() };
    let ends = x.contiguous()?.apply_op3(&parameters, &start, layer)?;
    let sequence = ends.apply_op1(Sequence(shared.clone()))?;
    if keep {
        let _ = shared.output.set(sequence.detach());
    }
    Ok(LstmOutput { sequence, hidden: ends.get(0)?, cell: ends.get(1)? })
}

/// What the two operations hand each other.
#[derive(Default)]
struct Shared {
    /// On the way from the first forward to the second: the sequence and its shape.
    computed: Mutex<Option<(Vec<f32>, Shape)>>,
    /// The same on a GPU.
    on_gpu: Mutex<Option<(CudaStorage, Shape)>>,
    /// The sequence, for the backward.
    output: OnceLock<Tensor>,
    /// On the way from the second's backward to the first's.
    gradient: Mutex<Option<Tensor>>,
}

fn put<T>(place: &Mutex<Option<T>>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// `x [B, T, D_in]`, parameters (see [`Parameters`]), start `[2, B, D]` -> final states `[2, B, D]`.
struct Layer {
    lengths: Vec<usize>,
    keep: bool,
    /// One per tile.
    traces: OnceLock<Vec<Trace>>,
    /// What a GPU keeps in their place.
    record: OnceLock<Tensor>,
    shared: Arc<Shared>,
}

/// The final states -> the sequence `[B, T, D]`.
struct Sequence(Arc<Shared>);

impl CustomOp1 for Sequence {
    fn name(&self) -> &'static str {
        "lstm-sequence"
    }

    fn cpu_fwd(&self, _ends: &CpuStorage, _layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let Some((output, shape)) = take(&self.0.computed) else { bail!("lstm: no sequence was computed") };
        Ok((CpuStorage::F32(output), shape))
    }

    fn cuda_fwd(&self, _ends: &CudaStorage, _layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        let Some(computed) = take(&self.0.on_gpu) else { bail!("lstm: no sequence was computed") };
        Ok(computed)
    }

    fn bwd(&self, ends: &Tensor, _output: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        put(&self.0.gradient, grad.contiguous()?);
        Ok(Some(ends.zeros_like()?))
    }
}

impl CustomOp3 for Layer {
    fn name(&self) -> &'static str {
        "lstm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let sizes = sizes(l1.shape(), l2.shape(), l3.shape())?;
        let input = Input { layer: self, sizes, x: contiguous(s1, l1)?, start: contiguous(s3, l3)? };
        let (output, tiles) = input.forward(&joined_parameters(contiguous(s2, l2)?, sizes));
        let (ends, traces): (Vec<StateBuf>, Vec<Trace>) = tiles.into_iter().unzip();
        if self.keep {
            let _ = self.traces.set(traces);
        }
        let shape = (self.lengths.len(), sizes.n_steps, sizes.hidden).into();
        put(&self.shared.computed, (output, shape));
        Ok((CpuStorage::F32(joined(&ends)), l3.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let sizes = sizes(l1.shape(), l2.shape(), l3.shape())?;
        let [ends, sequence, record] = cuda::forward([(s1, l1), (s2, l2), (s3, l3)], |machine, inputs| {
            let lengths = self.upload_lengths(machine, sizes)?;
            let forward = self.on_gpu(sizes).forward(machine, inputs, lengths)?;
            Ok([forward.ends, forward.sequence, forward.record])
        })?;
        let shape = Shape::from((self.lengths.len(), sizes.n_steps, sizes.hidden));
        if self.keep {
            let _ = self.record.set(cuda::tensor(record, shape.elem_count() * RECORD));
        }
        put(&self.shared.on_gpu, (sequence, shape));
        Ok((ends, l3.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        parameters: &Tensor,
        start: &Tensor,
        _ends: &Tensor,
        d_ends: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = sizes(x.shape(), parameters.shape(), start.shape())?;
        if x.device().is_cuda() {
            return self.backward_on_gpu(sizes, x, parameters, start, d_ends);
        }
        let (Some(traces), Some(output)) = (self.traces.get(), self.shared.output.get()) else {
            bail!("lstm: the forward kept nothing for a backward")
        };
        let (d_output, d_ends) = (take(&self.shared.gradient), d_ends.contiguous()?);
        let (x_values, start_values, layer) = (host_values(x), host_values(start), host_values(parameters));
        let (output, d_ends) = (host_values(output), host_values(&d_ends));
        let d_output = d_output.as_ref().map(host_values);
        let input = Input { layer: self, sizes, x: x_values.slice()?, start: start_values.slice()? };
        let flow = Flow {
            traces,
            output: output.slice()?,
            d_output: d_output.as_ref().map(|values| values.slice()).transpose()?,
            d_ends: d_ends.slice()?,
        };
        let (d_x, d_joined, d_start) = input.backward(&joined_parameters(layer.slice()?, sizes), &flow);
        let d_parameters = parted_gradient(&d_joined, sizes);
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(d_x, x.shape(), device)?),
            Some(Tensor::from_vec(d_parameters, parameters.shape(), device)?),
            Some(Tensor::from_vec(joined(&d_start), start.shape(), device)?),
        ))
    }
}

impl Layer {
    fn on_gpu(&self, Sizes { n_steps, width, hidden }: Sizes) -> Lstm {
        Lstm { batch: self.lengths.len(), n_steps, width, hidden }
    }

    /// `None` if all samples have all steps.
    fn upload_lengths(&self, machine: &mut dyn Machine, sizes: Sizes) -> CandleResult<Option<Memory>> {
        if self.lengths.iter().all(|&length| length == sizes.n_steps) {
            return Ok(None);
        }
        let lengths: Vec<u32> = self.lengths.iter().map(|&length| length as u32).collect();
        machine.upload(&lengths).map(Some)
    }

    fn backward_on_gpu(
        &self,
        sizes: Sizes,
        x: &Tensor,
        parameters: &Tensor,
        start: &Tensor,
        d_ends: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(record) = self.record.get() else { bail!("lstm: the forward kept nothing for a backward") };
        let d_ends = d_ends.contiguous()?;
        let run = |machine: &mut dyn Machine, [x, layer, record, d_ends]: [Memory; 4], d_sequence| {
            let lengths = self.upload_lengths(machine, sizes)?;
            let kept = [x, layer, record];
            let grads = self.on_gpu(sizes).backward(machine, kept, lengths, d_sequence, d_ends)?;
            Ok([grads.d_x, grads.d_layer, grads.d_start])
        };
        let [d_x, d_parameters, d_start] = match take(&self.shared.gradient) {
            Some(d_sequence) => {
                cuda::over([x, parameters, record, &d_ends, &d_sequence], |machine, [a, b, c, d, e]| {
                    run(machine, [a, b, c, d], Some(e))
                })?
            }
            None => cuda::over([x, parameters, record, &d_ends], |machine, all| run(machine, all, None))?,
        };
        Ok((
            Some(cuda::tensor(d_x, x.shape())),
            Some(cuda::tensor(d_parameters, parameters.shape())),
            Some(cuda::tensor(d_start, start.shape())),
        ))
    }
}

fn sizes(x: &Shape, parameters: &Shape, start: &Shape) -> CandleResult<Sizes> {
    let (n_samples, n_steps, width) = x.dims3()?;
    let (two, n_starts, hidden) = start.dims3()?;
    let sizes = Sizes { n_steps, width, hidden };
    let n_parameters = sizes.n_weights() + 8 * hidden;
    let fits = (two, n_starts) == (2, n_samples) && parameters.dims() == [n_parameters];
    if !fits || width == 0 || hidden == 0 {
        bail!("lstm: inputs {x:?}, start {start:?}, {} parameters", parameters.elem_count());
    }
    Ok(sizes)
}

/// The parameters as tiles read them: both weights side by side, `[4D, D_in + D]`, then the sum of the biases.
fn joined_parameters(values: &[f32], sizes: Sizes) -> Vec<f32> {
    let (Sizes { width, hidden, .. }, n_gates) = (sizes, 4 * sizes.hidden);
    let (input, rest) = values.split_at(n_gates * width);
    let (recurrent, biases) = rest.split_at(n_gates * hidden);
    let mut joined = Vec::with_capacity(sizes.n_weights() + n_gates);
    for (input, recurrent) in input.chunks_exact(width).zip(recurrent.chunks_exact(hidden)) {
        joined.extend_from_slice(input);
        joined.extend_from_slice(recurrent);
    }
    let (input, recurrent) = biases.split_at(n_gates);
    joined.extend(input.iter().zip(recurrent).map(|(a, b)| a + b));
    joined
}

/// The gradient of the parameters as they lie, from that of the joined ones.
fn parted_gradient(joined: &[f32], sizes: Sizes) -> Vec<f32> {
    let (rows, bias) = joined.split_at(sizes.n_weights());
    let rows = || rows.chunks_exact(sizes.width + sizes.hidden);
    let mut parted = Vec::with_capacity(joined.len() + bias.len());
    rows().for_each(|row| parted.extend_from_slice(&row[..sizes.width]));
    rows().for_each(|row| parted.extend_from_slice(&row[sizes.width..]));
    parted.extend_from_slice(bias);
    parted.extend_from_slice(bias);
    parted
}

/// All hidden states, then all cell states: `[2, B, D]`.
fn joined(states: &[StateBuf]) -> Vec<f32> {
    let hidden = states.iter().flat_map(|state| &state.hidden);
    hidden.chain(states.iter().flat_map(|state| &state.cell)).copied().collect()
}

/// The arguments of the layer, cut into tiles.
struct Input<'a> {
    layer: &'a Layer,
    sizes: Sizes,
    x: &'a [f32],
    start: &'a [f32],
}

/// What comes back from above, and what the forward left.
struct Flow<'a> {
    traces: &'a [Trace],
    output: &'a [f32],
    d_output: Option<&'a [f32]>,
    d_ends: &'a [f32],
}

impl<'a> Input<'a> {
    /// The sequence, and of each tile the final states and what the backward needs (empty if nothing is kept).
    fn forward(&self, parameters: &[f32]) -> (Vec<f32>, Vec<(StateBuf, Trace)>) {
        let (simd, parameters) = (Simd::best(), Parameters::of(parameters, self.sizes));
        let per_tile = ROWS * self.sizes.n_steps * self.sizes.hidden;
        let mut output = vec![0f32; self.layer.lengths.len() * self.sizes.n_steps * self.sizes.hidden];
        let parts = in_parts(&mut output, per_tile, |first, output| {
            let mut scratch = Scratch::new(self.sizes);
            let run = |(i, output): (usize, &mut [f32])| {
                let mut trace = Trace::default();
                let kept = self.layer.keep.then_some(&mut trace);
                let end = self.tile(first + i).forward(simd, parameters, &mut scratch, output, kept);
                (end, trace)
            };
            output.chunks_mut(per_tile).enumerate().map(run).collect::<Vec<_>>()
        });
        (output, parts.into_iter().flatten().collect())
    }

    /// The gradients of the input, of the parameters, and of each tile's start.
    fn backward(&self, parameters: &[f32], flow: &Flow<'_>) -> (Vec<f32>, Vec<f32>, Vec<StateBuf>) {
        let (simd, layer) = (Simd::best(), Parameters::of(parameters, self.sizes));
        let per_tile = ROWS * self.sizes.n_steps * self.sizes.width;
        let mut d_x = vec![0f32; self.x.len()];
        let parts = in_parts(&mut d_x, per_tile, |first, d_x| {
            let mut scratch = Scratch::new(self.sizes);
            let mut d_parameters = vec![0f32; parameters.len()];
            let run = |(i, d_x): (usize, &mut [f32])| {
                let (samples, from) = (self.tile(first + i), self.flow_of(flow, first + i));
                samples.backward(simd, layer, &from, &mut scratch, d_x, &mut d_parameters)
            };
            let d_start = d_x.chunks_mut(per_tile).enumerate().map(run).collect::<Vec<_>>();
            (d_start, d_parameters)
        });
        let (d_start, d_parameters): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        (d_x, sum_in_order(simd, d_parameters), d_start.into_iter().flatten().collect())
    }

    fn tile(&self, tile: usize) -> Samples<'a> {
        let Sizes { n_steps, width, .. } = self.sizes;
        Samples {
            sizes: self.sizes,
            lengths: self.of_tile(&self.layer.lengths, tile, 1),
            x: self.of_tile(self.x, tile, n_steps * width),
            start: self.state_of(self.start, tile),
        }
    }

    fn flow_of<'f>(&self, flow: &Flow<'f>, tile: usize) -> Backward<'f> {
        let row = self.sizes.n_steps * self.sizes.hidden;
        Backward {
            trace: &flow.traces[tile],
            output: self.of_tile(flow.output, tile, row),
            d_output: flow.d_output.map(|all| self.of_tile(all, tile, row)),
            d_final: self.state_of(flow.d_ends, tile),
        }
    }

    /// The samples of a tile in `[2, B, D]`.
    fn state_of<'s>(&self, both: &'s [f32], tile: usize) -> State<'s> {
        let (hidden, cell) = both.split_at(both.len() / 2);
        let size = self.sizes.hidden;
        State { hidden: self.of_tile(hidden, tile, size), cell: self.of_tile(cell, tile, size) }
    }

    /// The samples of a tile in something that has `n` entries per sample.
    fn of_tile<'s, T>(&self, all: &'s [T], tile: usize, n: usize) -> &'s [T] {
        let from = tile * ROWS;
        let to = (from + ROWS).min(self.layer.lengths.len());
        &all[from * n..to * n]
    }
}
