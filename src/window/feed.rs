//! A window's values as a training takes them: all in memory, or a part of its servers at a time.
//!
//! What is read together is a *block*: the servers of one row group of the window's file. A window within the budget is one
//! block, and stays in memory. Which blocks are in memory together, and when, is the reader's to decide; how many may be
//! follows from the budget and the window alone, never from the machine.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::grid::Grid;
use super::steps_file;
use crate::platform;

/// The values of a window, wherever they are.
#[derive(Debug)]
pub struct Feed {
    /// The grid of all servers, without their values.
    outline: Grid,
    source: Source,
    /// Servers by block, ascending; together all of them.
    blocks: Vec<Range<usize>>,
    n_at_once: usize,
}

#[derive(Debug)]
enum Source {
    Memory(Arc<Grid>),
    /// A file that [`steps_file`] wrote, and the rows of each block.
    File(PathBuf, Vec<Range<usize>>),
}

impl From<Arc<Grid>> for Feed {
    fn from(grid: Arc<Grid>) -> Self {
        let all = 0..grid.servers.len();
        Self { outline: grid.outline(), blocks: vec![all], n_at_once: 1, source: Source::Memory(grid) }
    }
}

impl Feed {
    /// The values in the file at `path`, of which `bytes` may be in memory at once (one block at least).
    ///
    /// - Errors: the file cannot be read, or is none that a window has.
    pub(super) fn of_file(path: PathBuf, outline: Grid, bytes: u64) -> Result<Self> {
        let groups = steps_file::row_groups(&path)?;
        let blocks = steps_file::servers_of(&path, &groups, &outline)?;
        let largest = blocks.iter().map(Range::len).max().unwrap_or(0) as u64 * outline.bytes_a_server();
        let n_at_once = usize::try_from(bytes / largest.max(1)).unwrap_or(usize::MAX);
        let n_at_once = n_at_once.clamp(1, blocks.len().max(1));
        Ok(Self { outline, source: Source::File(path, groups), blocks, n_at_once })
    }

    /// The grid of all servers, without their values.
    pub fn outline(&self) -> &Grid {
        &self.outline
    }

    /// Positions of the servers of each block, ascending.
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// Blocks that may be in memory at once.
    pub fn n_at_once(&self) -> usize {
        self.n_at_once
    }

    /// The servers of `blocks` (ascending), in their order, with their values. Let go of others before: they count, too.
    ///
    /// - Errors: the file cannot be read.
    pub fn read(&self, blocks: &[usize]) -> Result<Arc<Grid>> {
        match &self.source {
            Source::Memory(grid) => Ok(grid.clone()),
            Source::File(path, groups) => {
                platform::release_freed_memory();
                let servers = blocks.iter().flat_map(|block| self.blocks[*block].clone());
                let mut grid = self.outline.with_room_for(servers);
                for block in blocks {
                    steps_file::read_rows_into(path, groups[*block].clone(), &mut grid)
                        .with_context(|| format!("read {}", path.display()))?;
                }
                Ok(Arc::new(grid))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Server;
    use crate::window::testing::feed_in_parts;

    fn grid() -> Grid {
        let server = |name: &str| Server { name: name.into(), profile: "generic".into() };
        Grid {
            servers: ["a", "b", "c", "d", "e"].map(server).to_vec(),
            metrics: vec!["cpu".into(), "mem".into()],
            statuses: vec!["up".into()],
            start_ms: 0,
            step_secs: 300,
            n_steps: 4,
            values: (0..40).map(|i| i as f32).collect(),
            status: (0..20).map(|i| i % 2).collect(),
        }
    }

    #[test]
    fn parts_hold_their_servers_and_a_window_in_memory_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let grid = grid();
        let feed = feed_in_parts(dir.path(), &grid, 2);
        assert_eq!((feed.blocks().len(), feed.n_at_once()), (5, 2));
        assert_eq!(feed.outline(), &grid.outline());
        let part = feed.read(&[1, 4]).unwrap();
        assert_eq!(part.servers, [grid.servers[1].clone(), grid.servers[4].clone()]);
        assert_eq!(part.values, [&grid.values[8..16], &grid.values[32..]].concat());
        assert_eq!(part.status, [&grid.status[4..8], &grid.status[16..]].concat());
        assert_eq!(*feed.read(&[0, 1, 2, 3, 4]).unwrap(), grid);
        let whole = Feed::from(Arc::new(grid.clone()));
        assert_eq!((whole.blocks().len(), &whole.blocks()[0]), (1, &(0..5)));
        assert_eq!(*whole.read(&[0]).unwrap(), grid);
    }

    #[test]
    fn servers_without_rows_are_in_a_block_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut grid = grid();
        for server in [0, 2, 4] {
            grid.values[8 * server..8 * (server + 1)].fill(f32::NAN);
            grid.status[4 * server..4 * (server + 1)].fill(0);
        }
        let feed = feed_in_parts(dir.path(), &grid, 1);
        assert_eq!(feed.blocks(), [0..3, 3..5]);
        assert_eq!(feed.read(&[1]).unwrap().values[..8], grid.values[24..32]);
    }

    #[test]
    fn one_block_is_in_memory_however_small_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(feed_in_parts(dir.path(), &grid(), 0).n_at_once(), 1);
    }
}
