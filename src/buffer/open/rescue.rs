//! Writes the good frames of a damaged segment anew.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fsx;

use super::flaws::Damage;
use super::frame::{Header, encode_header};
use super::reader::SegmentReader;
use super::segment;

/// What is good of a segment.
pub(in crate::buffer) struct Rescued {
    path: PathBuf,
    header: Header,
    /// Where the good frames lie, with their heads.
    frames: Vec<(u64, u64)>,
    pub n_rows: u64,
    /// `None`: nothing of it is to be mended.
    pub damage: Option<Damage>,
}

impl Rescued {
    /// Looks through the segment at `path`; `spare` is taken for its header if its own is lost.
    ///
    /// - Errors: the file cannot be read.
    pub fn of(path: &Path, spare: &Header) -> Result<Self> {
        let mut reader = SegmentReader::open(path, spare)?;
        let (mut frames, mut n_rows) = (Vec::new(), 0);
        while let Some(frame) = reader.next_frame()? {
            frames.push((frame.offset, frame.n_bytes));
            n_rows += u64::from(frame.n_rows);
        }
        let damage = reader.flaws().damage;
        Ok(Self { path: path.to_owned(), header: reader.header, frames, n_rows, damage })
    }

    /// Writes the good frames into a new segment beside the damaged one, if there are any.
    pub fn write(&self) -> Result<Option<PathBuf>> {
        if self.frames.is_empty() {
            return Ok(None);
        }
        let path = segment::name_beside(&self.path);
        fsx::write_durable_with(&path, |target| {
            io::Write::write_all(target, &encode_header(&self.header))?;
            let mut source =
                File::open(&self.path).with_context(|| format!("read {}", self.path.display()))?;
            for (offset, n_bytes) in &self.frames {
                source.seek(SeekFrom::Start(*offset))?;
                io::copy(&mut (&mut source).take(*n_bytes), target)?;
            }
            Ok(())
        })?;
        Ok(Some(path))
    }
}
