//! Variable selection: how much each variable counts, at each step (Lim et al., equations 6 to 8).
//!
//! In float32 it runs as one fused operation ([`crate::ops::vsn`]); the composition of blocks here is its oracle, and
//! what runs elsewhere and for what the fused form does not know.

use anyhow::{Context, Result, ensure};
use candle_core::{D, Tensor};

use super::config::TftConfig;
use super::embedding::Embeddings;
use super::grn::{self, Grn};
use super::layout::Layout;
use super::linear::Linear;
use super::norm::{self, ResampleNorm};
use super::params::{Params, Scope};
use crate::ops::vsn::weights::{VariableWeights, VsnWeights};
use crate::ops::vsn::{VsnInput, vsn_fused};
use crate::ops::{Dropout, GrnWeights, ResampleWeights, has_fused_form, softmax};

/// The variable selection network of one part: static, encoder or decoder.
pub struct Vsn {
    variables: Vec<(String, Single)>,
    /// Only with two variables or more.
    weights: Option<Grn>,
    fused: Option<Fused>,
    hidden: usize,
}

/// The parameters of the fused form, but for the embeddings.
struct Fused {
    singles: Vec<FusedSingle>,
    joint: GrnWeights,
    context: Option<Linear>,
}

enum FusedSingle {
    Real(GrnWeights),
    Categorical(ResampleWeights),
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
            for name in encoder.iter().chain(new) {
                declare_single_grn(layout, config, &format!("{SHARED}.{name}"), name);
            }
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
        for name in variables {
            if !is_categorical(config, name) {
                layout.alias(&format!("{prefix}.prescalers.{name}"), &format!("prescalers.{name}"));
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
        let fused = Fused::load(&scope, &variables, embeddings)?;
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
                self.forward_fused(fused, embeddings, categoricals, reals, context, dropout)
            }
            _ => self.forward_plain(embeddings, categoricals, reals, context, dropout),
        }
    }

    fn forward_fused(
        &self,
        fused: &Fused,
        embeddings: &Embeddings,
        categoricals: &Tensor,
        reals: &Tensor,
        context: Option<&Tensor>,
        dropout: &Dropout,
    ) -> Result<Selection> {
        let (batch, n_steps, _) = reals.dims3()?;
        let mut codes = Vec::new();
        let mut variables = Vec::with_capacity(self.variables.len());
        for ((name, _), single) in self.variables.iter().zip(&fused.singles) {
            variables.push(match single {
                FusedSingle::Real(grn) => {
                    let (column, line) = embeddings.line(name)?;
                    VariableWeights::Real { column, line, grn: grn.clone() }
                }
                FusedSingle::Categorical(resample) => {
                    let (column, table) = embeddings.table(name)?;
                    let own = categoricals.narrow(2, column, 1)?;
                    ensure_known(&own, table.dim(0)?).with_context(|| format!("embed {name}"))?;
                    let (table, own) = if table.dim(0)? > batch * n_steps {
                        rows_in_use(&table, &own)?
                    } else {
                        (table, own)
                    };
                    codes.push(own);
                    VariableWeights::Categorical {
                        column: codes.len() - 1,
                        table,
                        resample: resample.clone(),
                    }
                }
            });
        }
        let codes = match codes.is_empty() {
            true => categoricals.narrow(2, 0, 0)?,
            false => Tensor::cat(&codes, 2)?,
        };
        let projected = match (&fused.context, context) {
            (Some(layer), Some(context)) => Some(layer.forward(&context.squeeze(1)?)?),
            _ => None,
        };
        let weights = VsnWeights { variables, joint: fused.joint.clone() };
        let input = VsnInput { reals, codes: &codes, context: projected.as_ref() };
        let (selected, weights) = vsn_fused(&input, &weights, dropout)?;
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
        scope: &Scope<'_>,
        variables: &[(String, Single)],
        embeddings: &Embeddings,
    ) -> Result<Option<Self>> {
        let is_known = |(name, single): &(String, Single)| match single {
            Single::Grn(_) => embeddings.line(name).is_ok(),
            Single::Resample(_) => embeddings.table(name).is_ok(),
        };
        if variables.len() < 2 || !variables.iter().all(is_known) {
            return Ok(None);
        }
        let load = |(name, single): &(String, Single)| {
            let scope = scope.at(&format!("single_variable_grns.{name}"));
            Ok(match single {
                Single::Grn(_) => FusedSingle::Real(grn::load_weights(&scope)?),
                Single::Resample(_) => FusedSingle::Categorical(norm::load_resample(&scope)?),
            })
        };
        let joint = scope.at("flattened_grn");
        let has_context = joint.has("context.weight");
        Ok(Some(Fused {
            singles: variables.iter().map(load).collect::<Result<_>>()?,
            context: has_context.then(|| Linear::load(&joint.at("context"))).transpose()?,
            joint: grn::load_weights(&joint)?,
        }))
    }
}

fn ensure_known(codes: &Tensor, n_codes: usize) -> Result<()> {
    let largest = codes.flatten_all()?.to_vec1::<u32>()?.into_iter().max().unwrap_or(0);
    ensure!((largest as usize) < n_codes, "code {largest} is beyond the table of {n_codes}");
    Ok(())
}

/// The rows of a large table that a batch uses, one per code, and the codes that fit them.
fn rows_in_use(table: &Tensor, codes: &Tensor) -> Result<(Tensor, Tensor)> {
    let rows = table.index_select(&codes.flatten_all()?, 0)?;
    let numbers = Tensor::arange(0, rows.dim(0)? as u32, codes.device())?.reshape(codes.shape())?;
    Ok((rows, numbers))
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
