//! What of a segment cannot be read: told apart are bytes that were damaged and a block that was never written to its end.
//!
//! Whoever writes a frame is killed, or loses its power, in the middle of it: the frame is shorter than its head says, or
//! zeros. That is a torn tail, of which nobody was told that it is safe. Everything else was written to its end: a bad frame
//! with good ones behind it, one that has the length it says, one whose length alone is wrong. (A power cut can leave the latter, too, since
//! a disk may keep the end of a file without its middle; whoever says "damaged" then says too much, never too little.)

use std::fmt;

use serde::{Deserialize, Serialize};

use super::frame::{FRAME_HEAD_BYTES, MAX_FRAME_BYTES, PAYLOAD_HEAD_BYTES, frame_crc, row_bytes};

/// Bytes of a segment that are not as they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    pub n_bytes: u64,
    /// Rows in them; `None` where nobody can know.
    pub n_rows_lost: Option<u64>,
}

impl Damage {
    /// The damage of two places.
    pub fn and(self, other: Self) -> Self {
        let n_rows_lost = self.n_rows_lost.zip(other.n_rows_lost).map(|(a, b)| a + b);
        Self { n_bytes: self.n_bytes + other.n_bytes, n_rows_lost }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_bytes = self.n_bytes;
        match self.n_rows_lost {
            None => write!(f, "{n_bytes} bytes of it are damaged, and an unknown number of rows is lost"),
            Some(0) => write!(f, "{n_bytes} bytes of it are damaged, and no row is lost"),
            Some(1) => write!(f, "{n_bytes} bytes of it are damaged, and 1 row is lost"),
            Some(n) => write!(f, "{n_bytes} bytes of it are damaged, and {n} rows are lost"),
        }
    }
}

/// What of a segment cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::buffer) struct Flaws {
    pub damage: Option<Damage>,
    /// Bytes at the end that were never completed.
    pub n_bytes_torn: u64,
}

impl Flaws {
    pub fn torn(n_bytes_torn: u64) -> Self {
        Self { damage: None, n_bytes_torn }
    }

    pub fn damaged(n_bytes: u64, n_rows_lost: Option<u64>) -> Self {
        Self { damage: Some(Damage { n_bytes, n_rows_lost }), n_bytes_torn: 0 }
    }

    /// The bytes behind the last good frame of a segment whose rows have `n_metrics` values.
    pub fn of_tail(bytes: &[u8], n_metrics: usize) -> Self {
        let n_bytes = bytes.len() as u64;
        let Some((length, crc, payload)) = split_frame(bytes) else { return Self::torn(n_bytes) };
        let is_complete = (PAYLOAD_HEAD_BYTES..=payload.len() as u64).contains(&u64::from(length))
            && length <= MAX_FRAME_BYTES;
        let true_length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if is_complete || frame_crc(true_length.to_le_bytes(), payload) == crc {
            Self::damaged(n_bytes, rows_in(bytes, n_metrics))
        } else {
            Self::torn(n_bytes)
        }
    }

    pub fn add(&mut self, other: Self) {
        self.n_bytes_torn += other.n_bytes_torn;
        self.damage = match (self.damage, other.damage) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Length and checksum of the frame at the beginning of `bytes`, and all bytes behind its head.
fn split_frame(bytes: &[u8]) -> Option<(u32, u32, &[u8])> {
    if (bytes.len() as u64) < FRAME_HEAD_BYTES + PAYLOAD_HEAD_BYTES {
        return None;
    }
    Some((u32_at(bytes, 0), u32_at(bytes, 4), &bytes[FRAME_HEAD_BYTES as usize..]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Rows in the bad frames that `bytes` consist of, by their build; `None` if that is damaged.
pub(super) fn rows_in(bytes: &[u8], n_metrics: usize) -> Option<u64> {
    let (mut rest, mut n_rows) = (bytes, 0);
    while !rest.is_empty() {
        let (length, _, payload) = split_frame(rest)?;
        let Counts { stated, measured } = Counts::of(payload, n_metrics);
        if measured == Some(stated) {
            // One frame to the end, whatever its length says.
            return Some(n_rows + stated);
        }
        let end = (length as usize).min(payload.len());
        n_rows += Counts::of(payload.get(..end)?, n_metrics).likely(end, n_metrics)?;
        rest = &payload[end..];
    }
    Some(n_rows)
}

/// Whether a payload consists of rows of `n_metrics` values.
pub(super) fn is_of_shape(payload: &[u8], n_metrics: usize) -> bool {
    let Counts { stated, measured } = Counts::of(payload, n_metrics);
    measured == Some(stated)
}

/// Rows of a payload, told twice: where one is damaged the other is not.
struct Counts {
    /// What it says.
    stated: u64,
    /// What fits into the bytes behind its texts, if those can be followed.
    measured: Option<u64>,
}

impl Counts {
    fn of(payload: &[u8], n_metrics: usize) -> Self {
        let head = payload.first_chunk::<{ PAYLOAD_HEAD_BYTES as usize }>();
        let stated = head.map_or(0, |head| u64::from(u32_at(head, 8)));
        Self { stated, measured: measured(payload, n_metrics) }
    }

    fn likely(&self, n_bytes: usize, n_metrics: usize) -> Option<u64> {
        let fits = |n: u64| n > 0 && PAYLOAD_HEAD_BYTES + n * row_bytes(n_metrics) <= n_bytes as u64;
        self.measured.or(fits(self.stated).then_some(self.stated))
    }
}

fn measured(payload: &[u8], n_metrics: usize) -> Option<u64> {
    let mut rest = payload.get(PAYLOAD_HEAD_BYTES as usize..)?;
    for _ in 0..u32_at(payload, 12) {
        let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        rest = rest[4..].get(length..)?;
    }
    let (n_bytes, row_bytes) = (rest.len() as u64, row_bytes(n_metrics));
    (n_bytes > 0 && n_bytes.is_multiple_of(row_bytes)).then(|| n_bytes / row_bytes)
}
