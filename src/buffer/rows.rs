//! Rows in memory: records that passed their checks, column by column, with each text stored once.
//!
//! One [`Rows`] is a batch of bounded size: a block of a segment, a slice of a day file, or the servers of a
//! day that are being sorted together. It knows nothing of files.

use std::collections::HashMap;

/// Stands for "no text given" where a text id is expected.
pub(super) const NO_TEXT: u32 = u32::MAX;

/// A set of texts with small numbers for names, in order of first use.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    texts: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Texts {
    /// The number of `text`, which is new if it was never seen.
    pub fn id(&mut self, text: &str) -> u32 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = u32::try_from(self.texts.len()).expect("a batch is far smaller than 2^32 texts");
        self.texts.push(text.to_owned());
        self.ids.insert(text.to_owned(), id);
        id
    }

    /// [`Texts::id`] of an optional text; [`NO_TEXT`] for none.
    pub fn optional_id(&mut self, text: Option<&str>) -> u32 {
        text.map_or(NO_TEXT, |text| self.id(text))
    }

    /// [`Texts::optional_id`] where the row before had the number `last`: mostly it is the same.
    fn id_after(&mut self, last: Option<&u32>, text: Option<&str>) -> u32 {
        match last {
            Some(last) if self.get(*last) == text => *last,
            _ => self.optional_id(text),
        }
    }

    /// The text with number `id`; `None` for [`NO_TEXT`].
    pub fn get(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(String::as_str)
    }

    pub fn all(&self) -> &[String] {
        &self.texts
    }

    pub fn clear(&mut self) {
        self.texts.clear();
        self.ids.clear();
    }
}

/// A batch of rows; all row vectors have the same length, `values` is row-major.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub n_metrics: usize,
    pub texts: Texts,
    /// Event times in epoch milliseconds.
    pub time_ms: Vec<i64>,
    /// Text ids of the server names.
    pub server: Vec<u32>,
    /// Text ids of the profiles, [`NO_TEXT`] where none was given.
    pub profile: Vec<u32>,
    /// Text ids of the statuses, [`NO_TEXT`] where none was given.
    pub status: Vec<u32>,
    /// `[row][metric]`, NaN where a metric is missing.
    pub values: Vec<f32>,
}

/// One row, borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub time_ms: i64,
    pub server: &'a str,
    pub profile: Option<&'a str>,
    pub status: Option<&'a str>,
    pub values: &'a [f32],
}

impl Rows {
    pub fn new(n_metrics: usize) -> Self {
        Self { n_metrics, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.time_ms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.time_ms.is_empty()
    }

    /// Forgets all rows and texts, and keeps the memory.
    pub fn clear(&mut self) {
        self.texts.clear();
        self.time_ms.clear();
        self.server.clear();
        self.profile.clear();
        self.status.clear();
        self.values.clear();
    }

    pub fn push(&mut self, row: Row<'_>) {
        debug_assert_eq!(row.values.len(), self.n_metrics);
        self.time_ms.push(row.time_ms);
        let server = self.texts.id_after(self.server.last(), Some(row.server));
        self.server.push(server);
        let profile = self.texts.id_after(self.profile.last(), row.profile);
        self.profile.push(profile);
        let status = self.texts.id_after(self.status.last(), row.status);
        self.status.push(status);
        self.values.extend_from_slice(row.values);
    }

    pub fn row(&self, idx: usize) -> Row<'_> {
        Row {
            time_ms: self.time_ms[idx],
            server: self.server_name(idx),
            profile: self.texts.get(self.profile[idx]),
            status: self.texts.get(self.status[idx]),
            values: self.values_of(idx),
        }
    }

    pub fn values_of(&self, idx: usize) -> &[f32] {
        &self.values[idx * self.n_metrics..(idx + 1) * self.n_metrics]
    }

    pub fn server_name(&self, idx: usize) -> &str {
        self.texts.get(self.server[idx]).expect("every row has a server")
    }

    /// Memory that one row of `n_metrics` takes while it is sorted, in bytes.
    pub fn row_bytes(n_metrics: usize) -> usize {
        8 + 3 * 4 + 4 * n_metrics + 4
    }
}
