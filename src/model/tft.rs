//! The network as a whole: from a batch of histories and known futures to quantile forecasts.
//!
//! The order of the steps is that of Lim et al., arXiv:1912.09363, figure 2: select variables, run the LSTMs,
//! enrich with what is static, attend, and put out quantiles; each behind a gate that can bypass it. Forecasts
//! leave in the unit of `target_scale`: with centre 0, scale 1 and no transformation that is the network's own.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Result as CandleResult, Tensor};

use super::attention::Attention;
use super::config::TftConfig;
use super::embedding::Embeddings;
use super::empty_history;
use super::glu::GateAddNorm;
use super::grn::Grn;
use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::params::Params;
use super::stacked_lstm::{LayerState, StackedLstm};
use super::static_encoder::{StaticContexts, StaticEncoder};
use super::transform::Transformation;
use super::vsn::{Selection, Vsn};
use crate::ops::passage::{Attending, from_attention, to_attention};
use crate::ops::{AttentionMask, Decoder, Dropout, attention, has_fused_form};

/// A batch: `L` history steps and `H` forecast steps of `B` samples, each part padded on the right.
///
/// Both parts carry all columns; what is unknown in the future is not read there, whatever it is.
#[derive(Clone, Debug)]
pub struct TftInput {
    /// `[B, L, R]` f32, columns as in `x_reals`.
    pub encoder_cont: Tensor,
    /// `[B, H, R]` f32.
    pub decoder_cont: Tensor,
    /// `[B, L, C]` u32 codes, columns as in `x_categoricals`.
    pub encoder_cat: Tensor,
    /// `[B, H, C]` u32 codes.
    pub decoder_cat: Tensor,
    /// Valid history steps of each sample, at most `L`.
    pub encoder_lengths: Vec<usize>,
    /// Valid forecast steps of each sample, from 1 to `H`.
    pub decoder_lengths: Vec<usize>,
    /// Per target `[B, 2]`: the sample's centre and scale.
    pub target_scale: Vec<Tensor>,
}

/// What the network says, and what it looked at; rows beyond a sample's lengths mean nothing.
#[derive(Clone, Debug)]
pub struct TftOutput {
    /// Per target `[B, H, Q]`, in the unit of the target.
    pub prediction: Vec<Tensor>,
    /// What the forecast steps looked at; only where it was asked for ([`Mode::Explain`]).
    pub attention: Option<AttentionWeights>,
    /// `[B, 1, N]`, or `[B, 0]` without static variables.
    pub static_variables: Tensor,
    /// `[B, L, 1, N]`
    pub encoder_variables: Tensor,
    /// `[B, H, 1, N]`
    pub decoder_variables: Tensor,
}

/// The weights of the attention: more numbers than anything else in the network, so they come only when asked for.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    /// `[B, H, A, L]`: the weight of each history step, per head.
    pub encoder: Tensor,
    /// `[B, H, A, H]`: the weight of each forecast step, per head.
    pub decoder: Tensor,
}

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No dropout.
    Eval,
    /// No dropout either, and the weights of the attention beside the same forecast.
    Explain,
    /// Dropout with the masks of this seed and step.
    Train { seed: u64, step: u64 },
    /// The same on a GPU where the key of the masks lies: see [`Dropout::on_device`].
    TrainOnDevice { key_at: u64 },
}

/// The network, with handles to the parameters it was built from.
pub struct Tft {
    config: TftConfig,
    embeddings: Embeddings,
    statics: StaticEncoder,
    encoder_selection: Vsn,
    decoder_selection: Vsn,
    encoder_lstm: StackedLstm,
    decoder_lstm: StackedLstm,
    post_lstm: GateAddNorm,
    enrichment: Grn,
    attention: Attention,
    post_attention: GateAddNorm,
    feed_forward: Grn,
    pre_output: GateAddNorm,
    outputs: Vec<Linear>,
}

/// The encoder's and the decoder's share of something.
struct Parts<T> {
    encoder: T,
    decoder: T,
}

/// What the LSTMs put out; no history without a single step.
struct Sequences {
    encoder: Option<Tensor>,
    decoder: Tensor,
}

impl Tft {
    /// Declares the output layers: one, or one per target.
    pub(super) fn declare_outputs(layout: &mut Layout, config: &TftConfig) {
        for (name, &size) in output_names(config).iter().zip(&config.output_sizes) {
            let initial = Initial::inverse_root(config.hidden_size);
            layout.in_block(name, |layout| {
                layout.add(format!("{name}.weight"), &[size, config.hidden_size], initial);
                layout.add(format!("{name}.bias"), &[size], initial);
            });
        }
    }

    /// Builds the network on the parameters' device; it follows their values.
    ///
    /// - Errors: the config is not valid or does not fit the parameters.
    pub fn new(config: &TftConfig, params: &Params) -> Result<Tft> {
        config.validate()?;
        let embeddings = Embeddings::load(config, params)?;
        let select = |part: &str, variables: &[&str]| {
            let prefix = format!("{part}_variable_selection");
            Vsn::load(&prefix, variables, &embeddings, params, config.hidden_size)
        };
        let outputs = output_names(config).into_iter().map(|name| Linear::load(&params.scope(name)));
        let (hidden, n_layers) = (config.hidden_size, config.lstm_layers);
        Ok(Tft {
            statics: StaticEncoder::load(config, &embeddings, params)?,
            encoder_selection: select("encoder", &config.encoder_variables())?,
            decoder_selection: select("decoder", &config.decoder_variables())?,
            encoder_lstm: StackedLstm::load(params, "lstm_encoder", hidden, n_layers)?,
            decoder_lstm: StackedLstm::load(params, "lstm_decoder", hidden, n_layers)?,
            post_lstm: GateAddNorm::load_post_lstm(params, hidden)?,
            enrichment: Grn::load(&params.scope("static_enrichment"))?,
            attention: Attention::load(params, "multihead_attn", config.attention_head_size)?,
            post_attention: GateAddNorm::load(&params.scope("post_attn_gate_norm"))?,
            feed_forward: Grn::load(&params.scope("pos_wise_ff"))?,
            pre_output: GateAddNorm::load(&params.scope("pre_output_gate_norm"))?,
            outputs: outputs.collect::<Result<_>>()?,
            config: config.clone(),
            embeddings,
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &TftConfig {
        &self.config
    }

    /// Forecasts a batch.
    ///
    /// The result depends on `input`, the parameters and `mode` alone, not on thread counts; padding and the
    /// future values of observed variables do not enter it.
    ///
    /// - Errors: shapes, lengths or codes that do not fit the configuration.
    pub fn forward(&self, input: &TftInput, mode: &Mode) -> Result<TftOutput> {
        self.check(input)?;
        let dropout = match *mode {
            Mode::Eval | Mode::Explain => Dropout::off(),
            Mode::Train { seed, step } => Dropout::new(self.config.dropout, seed, step),
            Mode::TrainOnDevice { key_at } => Dropout::on_device(self.config.dropout, key_at),
        };
        let statics = self.encode_static(input, &dropout)?;
        let selections = self.select(input, &statics, &dropout)?;
        let sequences = self.run_lstms(input, &statics, &selections, &dropout)?;
        let (raw, attention) = if *mode == Mode::Eval && can_pass(&sequences.decoder) {
            (self.pass(input, &statics, &selections, &sequences)?, None)
        } else {
            let temporal = self.gate_sequences(&selections, &sequences, &dropout)?;
            let explain = *mode == Mode::Explain;
            let (decoded, attention) = self.attend(input, &statics, &temporal, &dropout, explain)?;
            let raw = self.outputs.iter().map(|layer| layer.forward(&decoded));
            (raw.collect::<CandleResult<_>>()?, attention)
        };
        let static_variables = match statics.weights.dim(1)? {
            0 => statics.weights,
            _ => statics.weights.unsqueeze(1)?,
        };
        Ok(TftOutput {
            prediction: self.put_out(&raw, &input.target_scale)?,
            attention,
            static_variables,
            encoder_variables: selections.encoder.weights.unsqueeze(2)?,
            decoder_variables: selections.decoder.weights.unsqueeze(2)?,
        })
    }

    /// Static variables are read at the first step there is: of the history, or of the future without one.
    fn encode_static(&self, input: &TftInput, dropout: &Dropout) -> Result<StaticContexts> {
        let (categoricals, reals) = match input.encoder_cont.dim(1)? {
            0 => (&input.decoder_cat, &input.decoder_cont),
            _ => (&input.encoder_cat, &input.encoder_cont),
        };
        let (categoricals, reals) = (categoricals.narrow(1, 0, 1)?, reals.narrow(1, 0, 1)?);
        self.statics.forward(&self.embeddings, &categoricals, &reals, dropout).context("static variables")
    }

    fn select(
        &self,
        input: &TftInput,
        statics: &StaticContexts,
        dropout: &Dropout,
    ) -> Result<Parts<Selection>> {
        let context = statics.c_selection.unsqueeze(1)?;
        let select = |vsn: &Vsn, categoricals: &Tensor, reals: &Tensor| {
            vsn.forward(&self.embeddings, categoricals, reals, Some(&context), dropout)
        };
        Ok(Parts {
            encoder: select(&self.encoder_selection, &input.encoder_cat, &input.encoder_cont)
                .context("encoder variables")?,
            decoder: select(&self.decoder_selection, &input.decoder_cat, &input.decoder_cont)
                .context("decoder variables")?,
        })
    }

    /// Both LSTMs: `[B, L, D]` (`None` without a single step) and `[B, H, D]`.
    fn run_lstms(
        &self,
        input: &TftInput,
        statics: &StaticContexts,
        selections: &Parts<Selection>,
        dropout: &Dropout,
    ) -> Result<Sequences> {
        let (encoder, decoder) = (&selections.encoder.selected, &selections.decoder.selected);
        let (history, states) = self.encode_history(encoder, statics, &input.encoder_lengths, dropout)?;
        let lengths = Some(input.decoder_lengths.as_slice());
        let (future, _) = self.decoder_lstm.forward(decoder, &states, lengths, dropout)?;
        Ok(Sequences { encoder: history, decoder: future })
    }

    /// The gate behind the LSTMs.
    fn gate_sequences(
        &self,
        selections: &Parts<Selection>,
        sequences: &Sequences,
        dropout: &Dropout,
    ) -> Result<Parts<Tensor>> {
        let (encoder, decoder) = (&selections.encoder.selected, &selections.decoder.selected);
        let history = match &sequences.encoder {
            Some(history) => self.post_lstm.forward(history, encoder, dropout)?,
            None => encoder.clone(),
        };
        Ok(Parts { encoder: history, decoder: self.post_lstm.forward(&sequences.decoder, decoder, dropout)? })
    }

    /// From the LSTMs to the outputs of each target, `[B, H, Q]`: [`Tft::gate_sequences`], [`Tft::attend`] and the output
    /// layers, with the same result, for a pass that nothing is recorded of.
    fn pass(
        &self,
        input: &TftInput,
        statics: &StaticContexts,
        selections: &Parts<Selection>,
        sequences: &Sequences,
    ) -> Result<Vec<Tensor>> {
        let (to, from) = self.attention.passages(
            (self.post_lstm.weights(), self.enrichment.weights()),
            (self.post_attention.weights(), self.feed_forward.weights(), self.pre_output.weights()),
            &self.outputs,
        );
        let context =
            self.enrichment.project(&statics.c_enrichment)?.context("the enrichment has a context")?;
        let history = sequences.encoder.as_ref().map(|history| [history, &selections.encoder.selected]);
        let future = [&sequences.decoder, &selections.decoder.selected];
        let Attending { queries, keys, values, gated, enriched } =
            to_attention(history, future, &context, &to)?;
        let mask = self.attention_mask(input, (input.encoder_cont.dim(1)?, input.decoder_cont.dim(1)?))?;
        let mean = attention(&queries, &keys, &values, &mask, &Dropout::off())?;
        Ok(from_attention(&mean, [&gated, &enriched], &from)?)
    }

    /// The history's LSTM outputs (`None` without a single step) and the states the decoder starts from.
    fn encode_history(
        &self,
        x: &Tensor,
        statics: &StaticContexts,
        lengths: &[usize],
        dropout: &Dropout,
    ) -> Result<(Option<Tensor>, Vec<LayerState>)> {
        let n_layers = self.config.lstm_layers;
        if lengths.iter().all(|&length| length == 0) {
            let zero = statics.c_hidden.zeros_like()?;
            let states = vec![LayerState { hidden: zero.clone(), cell: zero }; n_layers];
            let history = (x.dim(1)? > 0).then(|| x.zeros_like()).transpose()?;
            return Ok((history, states));
        }
        let start = LayerState { hidden: statics.c_hidden.clone(), cell: statics.c_cell.clone() };
        // The reference runs an empty history for one step and then replaces its state.
        let at_least_one: Vec<usize> = lengths.iter().map(|&length| length.max(1)).collect();
        let (history, states) =
            self.encoder_lstm.forward(x, &vec![start; n_layers], Some(&at_least_one), dropout)?;
        Ok((Some(history), empty_history::replace_states(states, lengths, &statics.c_hidden)?))
    }

    /// Enrichment, attention and everything after it: `[B, H, D]`; with the weights of the attention to explain it.
    fn attend(
        &self,
        input: &TftInput,
        statics: &StaticContexts,
        temporal: &Parts<Tensor>,
        dropout: &Dropout,
        explain: bool,
    ) -> Result<(Tensor, Option<AttentionWeights>)> {
        let (encoder_length, horizon) = (temporal.encoder.dim(1)?, temporal.decoder.dim(1)?);
        let all = match encoder_length {
            0 => temporal.decoder.clone(),
            _ => Tensor::cat(&[&temporal.encoder, &temporal.decoder], 1)?,
        };
        let context = statics.c_enrichment.unsqueeze(1)?;
        let enriched = self.enrichment.forward(&all, Some(&context), dropout)?;
        let future = enriched.narrow(1, encoder_length, horizon)?;
        let mask = self.attention_mask(input, (encoder_length, horizon))?;
        let weights = match explain {
            true => {
                let all = self.attention.weights(&future, &enriched, &mask)?;
                let encoder = all.narrow(3, 0, encoder_length)?;
                Some(AttentionWeights { encoder, decoder: all.narrow(3, encoder_length, horizon)? })
            }
            false => None,
        };
        let attended = self.attention.forward(&future, &enriched, &mask, dropout)?;
        let gated = self.post_attention.forward(&attended, &future, dropout)?;
        let fed = self.feed_forward.forward(&gated, None, dropout)?;
        let decoded = self.pre_output.forward(&fed, &temporal.decoder, &Dropout::off())?;
        Ok((decoded, weights))
    }

    fn attention_mask(&self, input: &TftInput, sizes: (usize, usize)) -> Result<AttentionMask> {
        let decoder = match self.config.causal_attention {
            true => Decoder::Causal,
            false => Decoder::Lengths(input.decoder_lengths.clone()),
        };
        AttentionMask::new(sizes, &input.encoder_lengths, decoder, self.config.mask_bias)
    }

    /// The outputs of each target in its unit.
    fn put_out(&self, raw: &[Tensor], target_scale: &[Tensor]) -> Result<Vec<Tensor>> {
        let transformations: &[Transformation] = &self.config.output_transformations;
        let targets = raw.iter().zip(transformations).zip(target_scale);
        targets.map(|((raw, transformation), scale)| transformation.denormalise(raw, scale)).collect()
    }

    fn check(&self, input: &TftInput) -> Result<()> {
        let (batch, horizon, _) = input.decoder_cont.dims3()?;
        let encoder_length = input.encoder_cont.dim(1)?;
        let (n_reals, n_categoricals) = (self.config.x_reals.len(), self.config.x_categoricals.len());
        ensure_shape("encoder_cont", &input.encoder_cont, [batch, encoder_length, n_reals])?;
        ensure_shape("decoder_cont", &input.decoder_cont, [batch, horizon, n_reals])?;
        ensure_shape("encoder_cat", &input.encoder_cat, [batch, encoder_length, n_categoricals])?;
        ensure_shape("decoder_cat", &input.decoder_cat, [batch, horizon, n_categoricals])?;
        ensure!(input.decoder_cat.dtype() == DType::U32, "categorical codes are not u32");
        ensure!(batch > 0 && horizon > 0, "an empty batch");
        ensure_lengths("encoder", &input.encoder_lengths, batch, 0, encoder_length)?;
        ensure_lengths("decoder", &input.decoder_lengths, batch, 1, horizon)?;
        let (n_scales, n_targets) = (input.target_scale.len(), self.outputs.len());
        ensure!(n_scales == n_targets, "{n_scales} target scales for {n_targets} targets");
        Ok(())
    }
}

/// Whether rows may go through several blocks at once: nothing is recorded, and there is a form for it.
fn can_pass(x: &Tensor) -> bool {
    !x.track_op() && x.device().is_cpu() && has_fused_form(x)
}

fn output_names(config: &TftConfig) -> Vec<String> {
    match config.output_sizes.len() {
        1 => vec!["output_layer".to_owned()],
        n => (0..n).map(|target| format!("output_layer.{target}")).collect(),
    }
}

fn ensure_shape(name: &str, tensor: &Tensor, expected: [usize; 3]) -> Result<()> {
    ensure!(tensor.dims() == expected, "{name} has shape {:?}, expected {expected:?}", tensor.dims());
    Ok(())
}

fn ensure_lengths(
    part: &str,
    lengths: &[usize],
    batch: usize,
    shortest: usize,
    longest: usize,
) -> Result<()> {
    ensure!(lengths.len() == batch, "{} {part} lengths for {batch} samples", lengths.len());
    let fits = lengths.iter().all(|length| (shortest..=longest).contains(length));
    ensure!(fits, "{part} lengths must lie between {shortest} and {longest}");
    Ok(())
}
