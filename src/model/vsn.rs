//! Variable selection: how much each variable counts, at each step (Lim et al., equations 6 to 8).
//!
//! In float32 it runs as one fused operation ([`crate::ops::vsn`]); the composition of blocks here is its oracle, and
//! what runs elsewhere and for what the fused form does not know.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{D, Tensor};

use super::config::TftConfig;
use super::embedding::{COMMON, Embeddings, TablePlace};
use super::grn::{self, Grn};
use super::layout::Layout;
use super::linear::Linear;
use super::norm::ResampleNorm;
use super::params::{Params, Place, Scope};
use crate::ops::vsn::weights::{Packed, Variable, VsnWeights};
use crate::ops::vsn::{VsnInput, vsn_fused};
use crate::ops::{Dropout, GrnSizes, has_fused_form, softmax};

/// The variable selection network of one part: static, encoder or decoder.
pub struct Vsn {
    variables: Vec<(String, Single)>,
    /// Only with two variables or more.
    weights: Option<Grn>,
    fused: Option<Fused>,
    hidden: usize,
}

/// The parameters of the fused form.
struct Fused {
    weights: VsnWeights,
    context: Option<Linear>,
}

/// What processes one variable before it is weighted.
enum Single {
    Grn(Grn),
    Resample(ResampleNorm),
}

/// What a selection returns.
pub struct Selection {
    /// `[B, T, D]`
    pub selected: Tensor,
    /// `[B, T, N]`, rows sum to 1.
    pub weights: Tensor,
}

impl Vsn {
    /// Declares the static, shared, encoder and decoder parts.
    pub(super) fn declare_all(layout: &mut Layout, config: &TftConfig) {
        let hidden = Some(config.hidden_size);
        Self::declare(layout, config, "static_variable_selection", &config.static_variables(), None, false);
        let (encoder, decoder) = (config.encoder_variables(), config.decoder_variables());
        let shared = config.share_single_variable_networks;
        if shared {
            let new = decoder.iter().filter(|name| !encoder.contains(name));
            layout.in_block(COMMON, |layout| {
                for name in encoder.iter().chain(new) {
                    declare_single_grn(layout, config, &format!("{SHARED}.{name}"), name);
                }
            });
        }
        Self::declare(layout, config, "encoder_variable_selection", &encoder, hidden, shared);
        Self::declare(layout, config, "decoder_variable_selection", &decoder, hidden, shared);
    }

    fn declare(
        layout: &mut Layout,
        config: &TftConfig,
        prefix: &str,
        variables: &[&str],
        context: Option<usize>,
        shared: bool,
    ) {
        layout.in_block(prefix, |layout| {
            Self::declare_networks(layout, config, prefix, variables, context, shared);
        });
        for name in variables {
            if !is_categorical(config, name) {
                layout.alias(&format!("{prefix}.prescalers.{name}"), &format!("prescalers.{name}"));
            }
        }
    }

    fn declare_networks(
        layout: &mut Layout,
        config: &TftConfig,
        prefix: &str,
        variables: &[&str],
        context: Option<usize>,
        shared: bool,
    ) {
        let n = variables.len();
        if n > 1 {
            let width = variables.iter().map(|name| width_of(config, name)).sum();
            let widths = [width, config.hidden_size.min(n), n];
            grn::declare(layout, &format!("{prefix}.flattened_grn"), widths, context);
        }
        for name in variables {
            let single = format!("{prefix}.single_variable_grns.{name}");
            if shared {
                layout.alias(&single, &format!("{SHARED}.{name}"));
            } else if is_categorical(config, name) {
                ResampleNorm::declare(layout, &single, config.hidden_size);
            } else {
                declare_single_grn(layout, config, &single, name);
            }
        }
    }

    /// The selection over `variables` from the parameters under `prefix`.
    pub fn load(
        prefix: &str,
        variables: &[&str],
        embeddings: &Embeddings,
        params: &Params,
        hidden: usize,
    ) -> Result<Self> {
        let scope = params.scope(prefix);
        let load = |name: &&str| {
            let scope = scope.at(&format!("single_variable_grns.{name}"));
            let single = if scope.has("fc1.weight") {
                Single::Grn(Grn::load(&scope)?)
            } else {
                Single::Resample(ResampleNorm::load(&scope, embeddings.width(name)?)?)
            };
            Ok(((*name).to_owned(), single))
        };
        let variables = variables.iter().map(load).collect::<Result<Vec<_>>>()?;
        let several = variables.len() > 1;
        let weights = several.then(|| Grn::load(&scope.at("flattened_grn"))).transpose()?;
        let fused = Fused::load(params, prefix, &variables, embeddings, hidden)?;
        Ok(Vsn { variables, weights, fused, hidden })
    }

    /// Selects among the variables at every step.
    ///
    /// A single variable passes with weight 1; without any the result is zero and the weights have no columns.
    ///
    /// - Shapes: `categoricals [B, T, C]`, `reals [B, T, R]`, `context [B, 1, D]`.
    pub fn forward(
        &self,
        embeddings: &Embeddings,
        categoricals: &Tensor,
        reals: &Tensor,
        context: Option<&Tensor>,
        dropout: &Dropout,
    ) -> Result<Selection> {
        let (batch, n_steps, _) = reals.dims3()?;
        let n = self.variables.len();
        if n == 0 || n_steps == 0 {
            return Ok(Selection {
                selected: Tensor::zeros((batch, n_steps, self.hidden), reals.dtype(), reals.device())?,
                weights: Tensor::zeros((batch, n_steps, n), reals.dtype(), reals.device())?,
            });
        }
        match &self.fused {
            Some(fused) if has_fused_form(reals) => {
                Self::forward_fused(fused, categoricals, reals, context, dropout)
            }
            _ => self.forward_plain(embeddings, categoricals, reals, context, dropout),
        }
    }

    fn forward_fused(
        fused: &Fused,
        categoricals: &Tensor,
        reals: &Tensor,
        context: Option<&Tensor>,
        dropout: &Dropout,
    ) -> Result<Selection> {
        let projected = match (&fused.context, context) {
            (Some(layer), Some(context)) => Some(layer.forward(&context.squeeze(1)?)?),
            _ => None,
        };
        let input = VsnInput { reals, codes: categoricals, context: projected.as_ref() };
        let (selected, weights) = vsn_fused(&input, &fused.weights, dropout)?;
        Ok(Selection { selected, weights })
    }

    /// [`Vsn::forward`] block by block, on any device and in any precision.
    pub fn forward_plain(
        &self,
        embeddings: &Embeddings,
        categoricals: &Tensor,
        reals: &Tensor,
        context: Option<&Tensor>,
        dropout: &Dropout,
    ) -> Result<Selection> {
        let (batch, n_steps, _) = reals.dims3()?;
        let n = self.variables.len();
        let (mut vectors, mut processed) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (name, single) in &self.variables {
            let vector = embeddings.forward(name, categoricals, reals)?;
            processed.push(match single {
                Single::Grn(grn) => grn.forward(&vector, None, dropout)?,
                Single::Resample(resample) => resample.forward(&vector)?,
            });
            vectors.push(vector);
        }
        let Some(grn) = &self.weights else {
            let weights = Tensor::ones((batch, n_steps, 1), reals.dtype(), reals.device())?;
            return Ok(Selection { selected: processed.swap_remove(0), weights });
        };
        let weights = softmax(&grn.forward(&Tensor::cat(&vectors, D::Minus1)?, context, dropout)?)?;
        Ok(Selection { selected: weighted_sum(&processed, &weights)?, weights })
    }
}

impl Fused {
    /// `None` for what the fused operation does not know: a single variable, several columns in one embedding, a
    /// categorical with a network of its own.
    fn load(
        params: &Params,
        prefix: &str,
        variables: &[(String, Single)],
        embeddings: &Embeddings,
        hidden: usize,
    ) -> Result<Option<Self>> {
        if variables.len() < 2 {
            return Ok(None);
        }
        let (scope, joint) = (params.scope(prefix), params.scope(format!("{prefix}.flattened_grn")));
        let own = joint.place("fc1.weight")?.block;
        let common =
            params.blocks().iter().position(|block| block.name == COMMON).context("no embeddings")?;
        let (own_values, common_values) = (params.block(own), params.block(common));
        let n = [own_values.elem_count(), common_values.elem_count()];
        // The own parameters come first, those of several selections behind them.
        let start = |place: &Place| -> Result<usize> {
            ensure!(place.block == own || place.block == common, "parameters of {prefix} lie elsewhere");
            Ok(place.range.start + if place.block == own { 0 } else { n[0] })
        };
        let grn_at = |scope: &Scope<'_>| -> Result<(usize, GrnSizes)> {
            let sizes = grn::load_sizes(scope)?;
            let first = if sizes.is_stretched() { "resample_norm.mask" } else { "fc1.weight" };
            Ok((start(scope.place(first)?)?, sizes))
        };
        let mut places = Vec::with_capacity(variables.len());
        for (name, single) in variables {
            let scope = scope.at(&format!("single_variable_grns.{name}"));
            places.push(match (single, embeddings.line(name), embeddings.table(name)) {
                (Single::Grn(_), Some((column, [line, _])), _) => {
                    Variable::Real { column, line: start(line)?, grn: grn_at(&scope)? }
                }
                (Single::Resample(_), _, Some(TablePlace { column, place, padded })) => {
                    Variable::Categorical {
                        column,
                        table: start(place)?,
                        n_codes: place.shape[0],
                        width: place.shape[1],
                        padded,
                        resample: start(scope.place("mask")?)?,
                    }
                }
                _ => return Ok(None),
            });
        }
        let packed = Packed::new(&places, grn_at(&joint)?, hidden, n)?;
        let weights = VsnWeights { own: own_values, common: common_values, packed: Arc::new(packed) };
        let has_context = joint.has("context.weight");
        let context = has_context.then(|| Linear::load(&joint.at("context"))).transpose()?;
        Ok(Some(Fused { weights, context }))
    }
}

const SHARED: &str = "shared_single_variable_grns";

fn declare_single_grn(layout: &mut Layout, config: &TftConfig, name: &str, variable: &str) {
    let (width, hidden) = (width_of(config, variable), config.hidden_size);
    grn::declare(layout, name, [width, width.min(hidden), hidden], None);
}

fn is_categorical(config: &TftConfig, name: &str) -> bool {
    config.embedding_sizes.iter().any(|table| table.name == name)
}

fn width_of(config: &TftConfig, name: &str) -> usize {
    let table = config.embedding_sizes.iter().find(|table| table.name == name);
    table.map_or_else(|| config.real_size(name), |table| config.embedding_size(table))
}

/// `[B, T, D]`: one small tensor at a time, which stays in the cache; a stack of all of them would not.
fn weighted_sum(processed: &[Tensor], weights: &Tensor) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (i, vector) in processed.iter().enumerate() {
        let part = vector.broadcast_mul(&weights.narrow(D::Minus1, i, 1)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    Ok(sum.expect("a selection has two variables or more"))
}
