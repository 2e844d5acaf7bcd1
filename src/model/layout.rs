//! Which parameters a network has: names, shapes, first values, in registration order.
//!
//! Each block declares its own parameters beside the code that uses them; this file collects the declarations.
//! The order is that of the reference's `parameters()`. Some tensors have more than one name there: an alias names a
//! tensor that is declared elsewhere.
//!
//! What one operation reads lies together: declarations share a *block*, one vector of values, in the order of their
//! declaration. So an operation gets its parameters, and gives their gradient, without putting them together first.

use std::ops::Range;

use anyhow::Result;

use super::config::TftConfig;
use super::embedding::Embeddings;
use super::tft::Tft;
use super::vsn::Vsn;
use super::{attention::Attention, glu, grn, stacked_lstm::StackedLstm, static_encoder::StaticEncoder};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    Zeros,
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// Standard normal with row 0 zero.
    PaddedEmbedding,
}

impl Initial {
    /// Uniform with Xavier's (Glorot's) bound.
    pub fn xavier(fan_in: usize, fan_out: usize) -> Self {
        Initial::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
    }

    /// Normal with He's standard deviation, for the inputs of rectifying layers.
    pub fn he(fan_in: usize) -> Self {
        Initial::Normal((2.0 / fan_in as f64).sqrt())
    }

    /// Uniform within one over the root of the number of inputs: PyTorch's linear layers and LSTMs.
    pub fn inverse_root(fan_in: usize) -> Self {
        Initial::Uniform(1.0 / (fan_in as f64).sqrt())
    }
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    pub name: String,
    pub shape: Vec<usize>,
    pub initial: Initial,
    /// Its block, by number.
    pub block: usize,
    /// Whether it lies behind those of its block that do not.
    is_behind: bool,
}

impl Declaration {
    /// Single weights.
    pub fn n_weights(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All parameters of a network, the blocks they lie in, and the other names some of them go by.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    declarations: Vec<Declaration>,
    aliases: Vec<(String, String)>,
    /// Names, in the order of their first declarations.
    blocks: Vec<String>,
    /// The block that declarations go to, if one was opened.
    open: Option<String>,
}

impl Layout {
    /// - Errors: the config is not valid.
    pub fn of(config: &TftConfig) -> Result<Self> {
        config.validate()?;
        let mut layout = Layout::default();
        let hidden = config.hidden_size;
        Embeddings::declare(&mut layout, config);
        Vsn::declare_all(&mut layout, config);
        StaticEncoder::declare(&mut layout, hidden);
        for name in ["lstm_encoder", "lstm_decoder"] {
            StackedLstm::declare(&mut layout, name, hidden, config.lstm_layers);
        }
        glu::declare_post_lstm(&mut layout, hidden);
        grn::declare(&mut layout, "static_enrichment", [hidden; 3], Some(hidden));
        Attention::declare(&mut layout, "multihead_attn", hidden, config.attention_head_size);
        glu::declare_gate_add_norm(&mut layout, "post_attn_gate_norm", hidden, hidden);
        grn::declare(&mut layout, "pos_wise_ff", [hidden; 3], None);
        glu::declare_gate_add_norm(&mut layout, "pre_output_gate_norm", hidden, hidden);
        Tft::declare_outputs(&mut layout, config);
        Ok(layout)
    }

    /// In registration order.
    pub fn declarations(&self) -> &[Declaration] {
        &self.declarations
    }

    /// Single weights.
    pub fn n_weights(&self) -> usize {
        self.declarations.iter().map(Declaration::n_weights).sum()
    }

    /// Names of the blocks, in the order of their first declarations.
    pub fn blocks(&self) -> &[String] {
        &self.blocks
    }

    /// Where each declaration lies in its block, in the order of the declarations.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut ends = vec![0; self.blocks.len()];
        let mut ranges = vec![0..0; self.declarations.len()];
        for is_behind in [false, true] {
            let here = self.declarations.iter().enumerate().filter(|(_, one)| one.is_behind == is_behind);
            for (i, declaration) in here {
                let end = &mut ends[declaration.block];
                ranges[i] = *end..*end + declaration.n_weights();
                *end = ranges[i].end;
            }
        }
        ranges
    }

    /// Pairs (alias, name of the tensor it stands for).
    pub fn aliases(&self) -> &[(String, String)] {
        &self.aliases
    }

    /// Puts what `declare` adds into the block `name`, unless another one is open already: then it stays in that.
    pub fn in_block(&mut self, name: &str, declare: impl FnOnce(&mut Self)) {
        let is_outermost = self.open.is_none();
        self.open.get_or_insert_with(|| name.to_owned());
        declare(self);
        if is_outermost {
            self.open = None;
        }
    }

    /// Adds one parameter to the open block, or to one of its own name.
    pub fn add(&mut self, name: String, shape: &[usize], initial: Initial) {
        let block = self.open.clone().unwrap_or_else(|| name.clone());
        self.push(block, name, shape, initial, false);
    }

    /// [`add`](Self::add), behind what is added to the block without that wish.
    pub fn add_behind(&mut self, name: String, shape: &[usize], initial: Initial) {
        let block = self.open.clone().unwrap_or_else(|| name.clone());
        self.push(block, name, shape, initial, true);
    }

    /// Adds one parameter to the block `block`, whichever is open.
    pub fn add_to(&mut self, block: &str, name: String, shape: &[usize], initial: Initial) {
        self.push(block.to_owned(), name, shape, initial, false);
    }

    fn push(&mut self, block: String, name: String, shape: &[usize], initial: Initial, is_behind: bool) {
        let known = self.blocks.iter().position(|known| *known == block);
        let block = known.unwrap_or_else(|| {
            self.blocks.push(block);
            self.blocks.len() - 1
        });
        self.declarations.push(Declaration { name, shape: shape.to_vec(), initial, block, is_behind });
    }

    /// Makes everything declared under `target` known under `alias` as well.
    pub fn alias(&mut self, alias: &str, target: &str) {
        for Declaration { name, .. } in &self.declarations {
            if let Some(rest) = name.strip_prefix(target).filter(|rest| rest.starts_with('.')) {
                self.aliases.push((format!("{alias}{rest}"), name.clone()));
            }
        }
    }
}
