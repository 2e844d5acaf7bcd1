//! Rows through several blocks at once, where nothing is recorded for a backward.
//!
//! Between the LSTMs and the attention, and behind it, every row goes its own way. Block by block each would be written to
//! memory and read again, turned into a tile and back; here a tile goes through all of them: [`to_attention`] and
//! [`from_attention`]. The blocks are those of [`super::gate_fused`], [`super::grn_fused`] and [`super::linear_fused`] with
//! their arithmetic, so that the result is theirs to the bit. For f32 on the CPU; dropout has no place here.

mod blocks;

use candle_core::{Device, Result, Tensor, bail};

use blocks::{OwnGate, OwnGrn, OwnLinear};

use super::gate::GateWeights;
use super::gate_fused::GateTiles;
use super::grn::GrnWeights;
use super::grn_fused::GrnTiles;
use super::host::host_values;
use super::linear::LinearWeights;
use super::rows::{Output, Rows};
use super::simd::{ROWS, Simd};

/// The blocks on the way to the attention.
pub struct ToAttention<'a> {
    /// Behind the LSTMs.
    pub gate: &'a GateWeights,
    pub enrichment: &'a GrnWeights,
    pub queries: &'a LinearWeights,
    pub keys: &'a LinearWeights,
    pub values: &'a LinearWeights,
}

/// What the attention works on, and of the forecast steps what is needed behind it.
pub struct Attending {
    /// `[B, H, A d]`
    pub queries: Tensor,
    /// `[B, L + H, A d]`
    pub keys: Tensor,
    /// `[B, L + H, d]`
    pub values: Tensor,
    /// Behind the gate, `[B, H, D]`.
    pub gated: Tensor,
    /// Behind the enrichment, `[B, H, D]`.
    pub enriched: Tensor,
}

/// From the LSTMs to the attention.
///
/// - Shapes: history `[B, L, D]` (none without a step) and future `[B, H, D]`, each as what the LSTM put out and what had
///   gone into it; `context [B, D]`, projected, is the enrichment's. They are the caller's to keep.
/// - Errors: anything but contiguous f32 on the CPU.
pub fn to_attention(
    history: Option<[&Tensor; 2]>,
    future: [&Tensor; 2],
    context: &Tensor,
    weights: &ToAttention<'_>,
) -> Result<Attending> {
    let (n_samples, horizon, hidden) = future[0].dims3()?;
    let length = history.map_or(Ok(0), |[x, _]| x.dim(1))?;
    let blocks = EarlyBlocks {
        gate: OwnGate::of(weights.gate)?,
        enrichment: OwnGrn::of(weights.enrichment)?,
        queries: OwnLinear::of(weights.queries)?,
        keys: OwnLinear::of(weights.keys)?,
        values: OwnLinear::of(weights.values)?,
    };
    let ([x, skip], [past_x, past_skip]) =
        (future.map(host_values), history.unwrap_or(future).map(host_values));
    let (coming, past) = ([x.slice()?, skip.slice()?], [past_x.slice()?, past_skip.slice()?]);
    let contexts = host_values(context);
    let contexts = contexts.slice()?;
    let n_steps = length + horizon;
    let rooms = Rooms {
        widths: [blocks.queries.n_out, blocks.keys.n_out, blocks.values.n_out, hidden, hidden],
        steps: [horizon, n_steps, n_steps, horizon, horizon],
    };
    let mut outputs = [QUERIES, KEYS, VALUES, GATED, ENRICHED].map(|i| vec![0f32; n_samples * rooms.len(i)]);
    let mut numbers = 0..;
    let slots =
        outputs.each_mut().map(|output| Output::PerUnit(output, rooms.len(numbers.next().unwrap_or(0))));
    Rows::of_samples(n_samples * n_steps, n_steps).in_parts(slots, |part, mut outputs| {
        let mut worker = Early::new(&blocks);
        for (here, sample) in part.units().enumerate() {
            let context = &contexts[sample * blocks.enrichment.hidden()..][..blocks.enrichment.hidden()];
            for first in (0..length).step_by(ROWS) {
                let n = (length - first).min(ROWS);
                worker.enrich(past, sample * length + first, n, context);
                worker.look(&rooms, (here, first), n, &mut outputs);
            }
            for first in (0..horizon).step_by(ROWS) {
                let n = (horizon - first).min(ROWS);
                worker.enrich(coming, sample * horizon + first, n, context);
                worker.look(&rooms, (here, length + first), n, &mut outputs);
                worker.ask(&rooms, (here, first), n, &mut outputs);
            }
        }
    });
    let mut tensors = Vec::with_capacity(outputs.len());
    for (i, values) in outputs.into_iter().enumerate() {
        tensors.push(Tensor::from_vec(values, (n_samples, rooms.steps[i], rooms.widths[i]), &Device::Cpu)?);
    }
    let Ok([queries, keys, values, gated, enriched]) = <[Tensor; 5]>::try_from(tensors) else {
        bail!("five outputs on the way to the attention")
    };
    Ok(Attending { queries, keys, values, gated, enriched })
}

/// The outputs on the way to the attention, by number.
const QUERIES: usize = 0;
const KEYS: usize = 1;
const VALUES: usize = 2;
const GATED: usize = 3;
const ENRICHED: usize = 4;

/// Numbers per step and steps per sample of each output.
struct Rooms {
    widths: [usize; 5],
    steps: [usize; 5],
}

impl Rooms {
    /// Numbers per sample.
    fn len(&self, output: usize) -> usize {
        self.steps[output] * self.widths[output]
    }

    /// An output from a sample's step on.
    fn at<'a>(
        &self,
        output: usize,
        (sample, step): (usize, usize),
        outputs: &'a mut [&mut [f32]; 5],
    ) -> &'a mut [f32] {
        &mut outputs[output][sample * self.len(output) + step * self.widths[output]..]
    }
}

struct EarlyBlocks {
    gate: OwnGate,
    enrichment: OwnGrn,
    queries: OwnLinear,
    keys: OwnLinear,
    values: OwnLinear,
}

/// One part's working memory on the way to the attention.
struct Early<'a> {
    simd: Simd,
    blocks: &'a EarlyBlocks,
    gate: GateTiles,
    enrichment: GrnTiles,
    projected: Vec<f32>,
}

impl<'a> Early<'a> {
    fn new(blocks: &'a EarlyBlocks) -> Self {
        let widest = blocks.queries.n_out.max(blocks.keys.n_out).max(blocks.values.n_out);
        Early {
            simd: Simd::best(),
            blocks,
            gate: blocks.gate.tiles(),
            enrichment: blocks.enrichment.tiles(),
            projected: vec![0.0; widest * ROWS],
        }
    }

    /// `n` rows from the `first` on, through gate and enrichment; the results stay in their tiles.
    fn enrich(&mut self, [x, skip]: [&[f32]; 2], first: usize, n: usize, context: &[f32]) {
        self.blocks.gate.load(self.simd, [x, skip], first, n, &mut self.gate);
        self.blocks.gate.run(self.simd, &mut self.gate);
        self.blocks.enrichment.run(self.simd, &self.gate.y, Some(context), &mut self.enrichment);
    }

    /// What every step is to the attention: key and value, into their rows.
    fn look(&mut self, rooms: &Rooms, place: (usize, usize), n: usize, outputs: &mut [&mut [f32]; 5]) {
        let blocks = self.blocks;
        self.project(&blocks.keys, n, rooms.at(KEYS, place, outputs));
        self.project(&blocks.values, n, rooms.at(VALUES, place, outputs));
    }

    /// What a forecast step is beside it.
    fn ask(&mut self, rooms: &Rooms, place: (usize, usize), n: usize, outputs: &mut [&mut [f32]; 5]) {
        let (blocks, hidden) = (self.blocks, self.blocks.gate.n_out());
        self.project(&blocks.queries, n, rooms.at(QUERIES, place, outputs));
        self.simd.store_rows(&self.gate.y, hidden, rooms.at(GATED, place, outputs), hidden, n);
        self.simd.store_rows(&self.enrichment.y, hidden, rooms.at(ENRICHED, place, outputs), hidden, n);
    }

    /// The enriched tile through a layer, into rows.
    fn project(&mut self, layer: &OwnLinear, n: usize, rows: &mut [f32]) {
        layer.run(self.simd, &self.enrichment.y, &mut self.projected);
        self.simd.store_rows(&self.projected, layer.n_out, rows, layer.n_out, n);
    }
}

/// The blocks behind the attention.
pub struct FromAttention<'a> {
    /// The attention's own last layer.
    pub output: &'a LinearWeights,
    pub gate: &'a GateWeights,
    pub feed_forward: &'a GrnWeights,
    pub pre_output: &'a GateWeights,
    /// One per target.
    pub heads: Vec<&'a LinearWeights>,
}

/// From what the heads saw (`mean [B, H, d]`) to the outputs of each target, `[B, H, Q]`.
///
/// - Shapes: `gated` and `enriched` as in [`Attending`].
/// - Errors: anything but contiguous f32 on the CPU.
pub fn from_attention(
    mean: &Tensor,
    [gated, enriched]: [&Tensor; 2],
    weights: &FromAttention<'_>,
) -> Result<Vec<Tensor>> {
    let (n_samples, horizon, width) = mean.dims3()?;
    let simd = Simd::best();
    let (output, heads) = (
        OwnLinear::of(weights.output)?,
        weights.heads.iter().copied().map(OwnLinear::of).collect::<Result<Vec<_>>>()?,
    );
    let (gate, pre_output) = (OwnGate::of(weights.gate)?, OwnGate::of(weights.pre_output)?);
    let feed_forward = OwnGrn::of(weights.feed_forward)?;
    let [mean, gated, enriched] = [mean, gated, enriched].map(host_values);
    let (mean, gated, enriched) = (mean.slice()?, gated.slice()?, enriched.slice()?);
    let n_outputs: usize = heads.iter().map(|head| head.n_out).sum();
    let widest = heads.iter().map(|head| head.n_out).max().unwrap_or(0);
    let mut outputs = vec![0f32; n_samples * horizon * n_outputs];
    Rows::free(n_samples * horizon).in_parts([Output::PerRow(&mut outputs, n_outputs)], |part, [outputs]| {
        let (mut first, mut fed, mut last) = (gate.tiles(), feed_forward.tiles(), pre_output.tiles());
        let (mut seen, mut forecast) = (vec![0f32; width * ROWS], vec![0f32; widest * ROWS]);
        for tile in part.tiles() {
            tile.load(simd, mean, width, &mut seen);
            output.run(simd, &seen, &mut first.x);
            gate.load_skip(simd, enriched, tile.first, tile.n, &mut first);
            gate.run(simd, &mut first);
            feed_forward.run(simd, &first.y, None, &mut fed);
            last.x.copy_from_slice(&fed.y);
            pre_output.load_skip(simd, gated, tile.first, tile.n, &mut last);
            pre_output.run(simd, &mut last);
            let mut at = tile.first_here * n_outputs;
            for head in &heads {
                head.run(simd, &last.y, &mut forecast);
                simd.store_rows(&forecast, head.n_out, &mut outputs[at..], n_outputs, tile.n);
                at += head.n_out;
            }
        }
    });
    let all = Tensor::from_vec(outputs, (n_samples, horizon, n_outputs), &Device::Cpu)?;
    let mut from = 0;
    let each = heads.iter().map(|head| {
        let own = all.narrow(2, from, head.n_out)?.contiguous();
        from += head.n_out;
        own
    });
    each.collect()
}
