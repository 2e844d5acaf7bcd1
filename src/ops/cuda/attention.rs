//! Launches of the attention core; [`crate::ops::attention_fused`] is the operation.

use candle_core::{Result, bail};

use super::machine::{Arg, Grid, Machine, Memory, ensure_countable, mask_args};
use crate::ops::dropout::Mask;

/// The widths of heads that there are kernels for, each for those up to it.
const WIDTHS: [usize; 5] = [4, 8, 16, 32, 64];

/// The widest head.
pub const WIDEST: usize = WIDTHS[WIDTHS.len() - 1];

/// Warps that share out what a tile looks at, as in `kernels/attention.cu`.
const SHARES: usize = 4;

/// One attention; scores are multiplied by `scale`, those that must not be seen replaced by `fill`, both in powers of two.
#[derive(Clone, Copy)]
pub struct Attention {
    pub batch: usize,
    pub history: usize,
    pub horizon: usize,
    pub n_heads: usize,
    pub width: usize,
    pub scale: f32,
    pub fill: f32,
    pub dropped: Option<Mask>,
}

/// The steps that samples have, u32 each. `history`: `None` if all have all; `future`: `None` if queries see the steps
/// before their own.
#[derive(Clone, Copy)]
pub struct Lengths {
    pub history: Option<Memory>,
    pub future: Option<Memory>,
}

impl Attention {
    /// The mean of the heads `[B, H, d]`, and what the backward needs.
    pub fn forward(
        self,
        machine: &mut dyn Machine,
        inputs: [Memory; 3],
        lengths: Lengths,
    ) -> Result<[Memory; 2]> {
        let (n_rows, n) = (self.batch * self.n_heads * self.horizon, self.batch * self.horizon * self.width);
        ensure_countable(n_rows)?;
        let (y, kept) = (machine.alloc(n)?, machine.alloc(self.kept_len())?);
        let mut args = self.args(inputs, lengths);
        args.push(kept.into());
        self.launch(machine, "forward", self.query_blocks(), 2, &args)?;
        let [key_at, key, keep_below, scale] = mask_args(self.dropped);
        let sizes = [n, self.n_heads, self.horizon, self.width].map(Arg::from);
        let args = [&[kept.into()], &sizes[..], &[key_at, key, keep_below, scale, y.into()]].concat();
        machine.launch("attention_mean", Grid::items(n), &args)?;
        Ok([y, kept])
    }

    /// The gradients of queries, keys and values.
    pub fn backward(
        self,
        machine: &mut dyn Machine,
        inputs: [Memory; 3],
        lengths: Lengths,
        kept: Memory,
        dy: Memory,
    ) -> Result<[Memory; 3]> {
        let n_rows = self.batch * self.n_heads * self.horizon;
        let slopes = machine.alloc(n_rows * (1 + self.width))?;
        let [key_at, key, keep_below, scale] = mask_args(self.dropped);
        let sizes = [n_rows, self.n_heads, self.horizon, self.width].map(Arg::from);
        let args = [&[kept.into(), dy.into()], &sizes[..], &[key_at, key, keep_below, scale, slopes.into()]]
            .concat();
        machine.launch("attention_slopes", Grid::items(n_rows), &args)?;
        let [d_queries, d_keys, d_values] = {
            let mut like = |input: Memory| machine.alloc(input.len);
            [like(inputs[0])?, like(inputs[1])?, like(inputs[2])?]
        };
        let args = [self.args(inputs, lengths), vec![kept.into(), slopes.into()]].concat();
        let of_queries = [&args[..], &[d_queries.into()]].concat();
        self.launch(machine, "queries", self.query_blocks(), 0, &of_queries)?;
        let of_keys = [&args[..], &[d_keys.into(), d_values.into()]].concat();
        let key_blocks = (self.batch, (self.history + self.horizon).div_ceil(32));
        self.launch(machine, "keys", key_blocks, 0, &of_keys)?;
        Ok([d_queries, d_keys, d_values])
    }

    /// Numbers that a forward keeps.
    pub fn kept_len(self) -> usize {
        self.batch * self.n_heads * self.horizon * (2 + self.width)
    }

    fn query_blocks(self) -> (usize, usize) {
        (self.batch * self.n_heads, self.horizon.div_ceil(32))
    }

    /// The arguments that all kernels begin with.
    fn args(self, inputs: [Memory; 3], lengths: Lengths) -> Vec<Arg> {
        let sizes = [self.history, self.horizon, self.n_heads, self.width].map(Arg::from);
        let lengths = [lengths.history.into(), lengths.future.into()];
        [&inputs.map(Arg::from)[..], &lengths, &sizes, &[self.scale.into(), self.fill.into()]].concat()
    }

    /// `extra`: numbers that a lane leaves to the other warps besides a vector.
    fn launch(
        self,
        machine: &mut dyn Machine,
        kernel: &str,
        blocks: (usize, usize),
        extra: usize,
        args: &[Arg],
    ) -> Result<()> {
        let Some(width) = WIDTHS.into_iter().find(|&width| width >= self.width) else {
            bail!("heads of {} features: {WIDEST} at most on a GPU", self.width);
        };
        if blocks.0 == 0 || blocks.1 == 0 {
            return Ok(());
        }
        let grid = Grid { blocks, threads: 32 * SHARES, shared: SHARES * 32 * (extra + width) };
        machine.launch(&format!("attention_{kernel}_{width}"), grid, args)
    }
}
