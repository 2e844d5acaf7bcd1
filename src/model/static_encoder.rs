//! The static vector of a sample and the four contexts that steer the rest of the network.

use anyhow::Result;
use candle_core::Tensor;

use super::config::TftConfig;
use super::embedding::Embeddings;
use super::grn::{self, Grn};
use super::layout::Layout;
use super::params::Params;
use super::vsn::Vsn;
use crate::ops::Dropout;

/// Selection over the static variables, then one GRN per context.
pub struct StaticEncoder {
    selection: Vsn,
    contexts: [Grn; 4],
}

/// What steers the rest, `[B, D]` each.
pub struct StaticContexts {
    /// For the variable selections.
    pub c_selection: Tensor,
    /// The LSTM's first hidden state.
    pub c_hidden: Tensor,
    /// The LSTM's first cell state.
    pub c_cell: Tensor,
    /// For the static enrichment.
    pub c_enrichment: Tensor,
    /// How much each static variable counted, `[B, N]`.
    pub weights: Tensor,
}

const CONTEXTS: [&str; 4] = [
    "static_context_variable_selection",
    "static_context_initial_hidden_lstm",
    "static_context_initial_cell_lstm",
    "static_context_enrichment",
];

impl StaticEncoder {
    /// Declares the context networks; the selection is declared with the other selections.
    pub(super) fn declare(layout: &mut Layout, hidden: usize) {
        for name in CONTEXTS {
            grn::declare(layout, name, [hidden; 3], None);
        }
    }

    pub(super) fn load(config: &TftConfig, embeddings: &Embeddings, params: &Params) -> Result<Self> {
        let variables = config.static_variables();
        let [selection, hidden, cell, enrichment] = CONTEXTS.map(|name| Grn::load(&params.scope(name)));
        Ok(StaticEncoder {
            selection: Vsn::load(
                "static_variable_selection",
                &variables,
                embeddings,
                params,
                config.hidden_size,
            )?,
            contexts: [selection?, hidden?, cell?, enrichment?],
        })
    }

    /// Reads the static variables at the one step it is given.
    ///
    /// - Shapes: `categoricals [B, 1, C]`, `reals [B, 1, R]`.
    pub fn forward(
        &self,
        embeddings: &Embeddings,
        categoricals: &Tensor,
        reals: &Tensor,
        dropout: &Dropout,
    ) -> Result<StaticContexts> {
        let selection = self.selection.forward(embeddings, categoricals, reals, None, dropout)?;
        let vector = selection.selected.squeeze(1)?;
        let context = |i: usize| self.contexts[i].forward(&vector, None, dropout);
        Ok(StaticContexts {
            c_selection: context(0)?,
            c_hidden: context(1)?,
            c_cell: context(2)?,
            c_enrichment: context(3)?,
            weights: selection.weights.squeeze(1)?,
        })
    }
}
