//! What the operations ask of a GPU: memory, and launches of kernels.
//!
//! How an operation is cut into launches is written against [`Machine`] alone. A device is one ([`super::device`]); in
//! tests, a process that runs the same kernels as plain C++ is another, so that grids, sizes and the order of arguments
//! are what is tested.

use candle_core::{Result, bail};

use crate::ops::dropout::{Mask, MaskParts};

/// Rows of a tile, threads of the blocks that work on tiles: as in `kernels/tile.cuh`.
pub const ROWS: usize = 32;
pub const STRIDE: usize = ROWS + 1;
pub const THREADS: usize = 256;

/// Blocks that add up gradients at most, each its own part. A fixed number, whatever the device: so is the order of sums.
/// In tests so few that blocks take several tiles.
pub const PARTS: usize = if cfg!(test) { 2 } else { 256 };

/// 32-bit numbers on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub address: u64,
    pub len: usize,
}

impl Memory {
    /// What lies behind the first `n` numbers.
    pub fn from(self, n: usize) -> Memory {
        assert!(n <= self.len, "{n} numbers into {}", self.len);
        Memory { address: self.address + 4 * n as u64, len: self.len - n }
    }
}

/// Somewhere kernels run.
pub trait Machine {
    /// Memory of `len` numbers, with anything in it; it lives as long as the operation.
    fn alloc(&mut self, len: usize) -> Result<Memory>;

    fn upload(&mut self, words: &[u32]) -> Result<Memory>;

    /// Words that never change: asked for again they are not sent again, and they stay where they are.
    fn table(&mut self, words: &[u32]) -> Result<Memory>;

    /// Shared memory that a block may have.
    fn shared_bytes(&self) -> usize;

    /// Starts `kernel`; later launches come after it.
    fn launch(&mut self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()>;
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: (usize, usize),
    pub threads: usize,
    /// Shared numbers per block.
    pub shared: usize,
}

impl Grid {
    /// Enough blocks for a thread per item.
    pub fn items(n: usize) -> Grid {
        Grid { blocks: (n.div_ceil(THREADS).max(1), 1), threads: THREADS, shared: 0 }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// An address, 0 for nothing.
    Address(u64),
    Int(i32),
    Word(u64),
    Real(f32),
}

impl From<Memory> for Arg {
    fn from(memory: Memory) -> Arg {
        Arg::Address(memory.address)
    }
}

impl From<Option<Memory>> for Arg {
    fn from(memory: Option<Memory>) -> Arg {
        Arg::Address(memory.map_or(0, |memory| memory.address))
    }
}

impl From<usize> for Arg {
    fn from(n: usize) -> Arg {
        Arg::Int(i32::try_from(n).expect("a size that `ensure_countable` let pass"))
    }
}

impl From<bool> for Arg {
    fn from(flag: bool) -> Arg {
        Arg::Int(i32::from(flag))
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::Real(x)
    }
}

/// The four arguments of a mask: where its step's key is, its own, threshold, scale. None drops nothing.
pub fn mask_args(mask: Option<Mask>) -> [Arg; 4] {
    let none = MaskParts { key_at: 0, key: 0, keep_below: 1 << 16, scale: 1.0 };
    let MaskParts { key_at, key, keep_below, scale } = mask.map_or(none, Mask::parts);
    [Arg::Address(key_at), Arg::Word(key), Arg::Int(keep_below as i32), Arg::Real(scale)]
}

/// Kernels count rows and numbers of a part in 32 bits.
pub fn ensure_countable(n: usize) -> Result<()> {
    if n >= i32::MAX as usize {
        bail!("{n} numbers are too many for one operation on a GPU");
    }
    Ok(())
}

/// The blocks of a kernel that works on tiles of rows, and where they keep things.
pub struct Tiled {
    pub grid: Grid,
    /// Global memory that stands in where shared memory is too small.
    pub spill: Option<Memory>,
    /// The place of gradients in shared memory, -1 if they do not fit.
    grads_at: i32,
    /// What the blocks add up, a part each.
    parts: Option<Memory>,
    grads_len: usize,
}

impl Tiled {
    /// A forward over `n_rows` rows with `workspace` numbers of working memory per block.
    pub fn forward(machine: &mut dyn Machine, n_rows: usize, workspace: usize) -> Result<Tiled> {
        ensure_countable(n_rows)?;
        // Blocks that spill take several tiles each, or what they spill to would outgrow the device.
        let most = if 4 * workspace <= machine.shared_bytes() { i32::MAX as usize } else { PARTS };
        Tiled::new(machine, (n_rows.div_ceil(ROWS).clamp(1, most), 1), workspace, 0)
    }

    /// A backward whose blocks add up `grads_len` gradients; with several in a `column`, each row of blocks has its own.
    pub fn backward(
        machine: &mut dyn Machine,
        n_rows: usize,
        column: usize,
        workspace: usize,
        grads_len: usize,
    ) -> Result<Tiled> {
        ensure_countable(n_rows)?;
        let parts = PARTS.div_ceil(column.max(1));
        let blocks = (n_rows.div_ceil(ROWS).clamp(1, parts), column);
        let mut tiled = Tiled::new(machine, blocks, workspace, grads_len)?;
        tiled.parts = Some(machine.alloc(blocks.0 * blocks.1 * grads_len)?);
        Ok(tiled)
    }

    fn new(
        machine: &mut dyn Machine,
        blocks: (usize, usize),
        workspace: usize,
        grads_len: usize,
    ) -> Result<Tiled> {
        let room = machine.shared_bytes() / 4;
        let spill = match workspace <= room {
            true => None,
            false => Some(machine.alloc(blocks.0 * blocks.1 * workspace)?),
        };
        let own = if spill.is_some() { 0 } else { workspace };
        let fits = own + grads_len <= room;
        let shared = if fits { own + grads_len } else { own };
        let grads_at = if fits { own as i32 } else { -1 };
        let grid = Grid { blocks, threads: THREADS, shared };
        Ok(Tiled { grid, spill, grads_at, parts: None, grads_len })
    }

    /// The place of gradients in shared memory and that of the parts.
    pub fn grads(&self) -> [Arg; 2] {
        [Arg::Int(self.grads_at), self.parts.into()]
    }

    /// The parts of each row of blocks.
    pub fn sum(&self, machine: &mut dyn Machine) -> Result<Memory> {
        let (n_rows, len) = (self.grid.blocks.1, self.grads_len);
        let sums = machine.alloc(n_rows * len)?;
        let all: Vec<Stretch> = (0..n_rows).map(|row| Stretch { row, some: 0..len, to: row * len }).collect();
        self.sum_stretches(machine, &all, sums)?;
        Ok(sums)
    }

    /// Some of the gradients, each stretch to its place in `to`, in one launch.
    pub fn sum_stretches(&self, machine: &mut dyn Machine, stretches: &[Stretch], to: Memory) -> Result<()> {
        let Some(parts) = self.parts else { bail!("no gradients were added up") };
        let (mut words, mut n, mut n_stretches) = (Vec::new(), 0, 0usize);
        for Stretch { row, some, to } in stretches.iter().filter(|stretch| !stretch.some.is_empty()) {
            let from = row * self.grid.blocks.0 * self.grads_len + some.start;
            words.extend([n as u32, from as u32, *to as u32]);
            n += some.len();
            n_stretches += 1;
        }
        if n == 0 {
            return Ok(());
        }
        let table = machine.table(&words)?;
        let args = [
            parts.into(),
            self.grid.blocks.0.into(),
            self.grads_len.into(),
            table.into(),
            n_stretches.into(),
            n.into(),
            to.into(),
        ];
        machine.launch("sum_parts", Grid::items(n), &args)
    }
}

/// Some of the gradients of one row of blocks, and where they go.
pub struct Stretch {
    pub row: usize,
    pub some: std::ops::Range<usize>,
    pub to: usize,
}
