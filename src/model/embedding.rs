//! From variables to vectors: embedding tables for categoricals, a line per real.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::config::TftConfig;
use super::layout::{Initial, Layout};
use super::linear::Linear;
use super::params::{Params, Place};

/// The vector of every variable at every step.
pub struct Embeddings {
    tables: BTreeMap<String, Table>,
    reals: BTreeMap<String, Real>,
}

struct Table {
    weight: Tensor,
    place: Place,
    /// Row 0 is used but gets no gradient.
    padded: bool,
    /// The columns whose rows are summed.
    columns: Vec<usize>,
    width: usize,
}

struct Real {
    column: usize,
    line: Linear,
    places: [Place; 2],
    width: usize,
}

/// Where the values of a categorical lie, with its column.
pub(super) struct TablePlace<'a> {
    pub column: usize,
    pub place: &'a Place,
    /// Row 0 gets no gradient.
    pub padded: bool,
}

/// The block of what several selections read.
pub(super) const COMMON: &str = "common";

impl Embeddings {
    pub(super) fn declare(layout: &mut Layout, config: &TftConfig) {
        layout.in_block(COMMON, |layout| {
            for table in &config.embedding_sizes {
                let padded = is_padded(config, &table.name);
                let initial = if padded { Initial::PaddedEmbedding } else { Initial::Normal(1.0) };
                let shape = [table.classes, config.embedding_size(table)];
                layout.add(format!("input_embeddings.embeddings.{}.weight", table.name), &shape, initial);
            }
            for name in config.used_reals() {
                let width = config.real_size(name);
                layout.add(format!("prescalers.{name}.weight"), &[width, 1], Initial::inverse_root(1));
                layout.add(format!("prescalers.{name}.bias"), &[width], Initial::inverse_root(1));
            }
        });
    }

    /// The tables and lines of all variables.
    pub fn load(config: &TftConfig, params: &Params) -> Result<Self> {
        let mut tables = BTreeMap::new();
        for size in &config.embedding_sizes {
            let columns =
                config.columns_of(&size.name).iter().map(|c| place(&config.x_categoricals, c)).collect();
            let scope = params.scope(format!("input_embeddings.embeddings.{}", size.name));
            let weight = scope.tensor("weight")?;
            let (padded, width) = (is_padded(config, &size.name), weight.dim(1)?);
            let place = scope.place("weight")?.clone();
            tables.insert(size.name.clone(), Table { weight, place, padded, columns, width });
        }
        let mut reals = BTreeMap::new();
        for name in config.used_reals() {
            let scope = params.scope(format!("prescalers.{name}"));
            let (line, column) = (Linear::load(&scope)?, place(&config.x_reals, name));
            let places = [scope.place("weight")?.clone(), scope.place("bias")?.clone()];
            let width = line.n_outputs();
            reals.insert(name.to_owned(), Real { column, line, places, width });
        }
        Ok(Embeddings { tables, reals })
    }

    /// Width of a variable's vector.
    ///
    /// - Errors: no such variable.
    pub fn width(&self, name: &str) -> Result<usize> {
        let table = self.tables.get(name).map(|table| table.width);
        table.or_else(|| self.reals.get(name).map(|real| real.width)).with_context(|| unknown(name))
    }

    /// A real variable's column, and where its line lies: `[width, 1]` and `[width]`.
    pub(super) fn line(&self, name: &str) -> Option<(usize, &[Place; 2])> {
        self.reals.get(name).map(|real| (real.column, &real.places))
    }

    /// A categorical's column and its table `[codes, width]`; `None` for a group of several columns.
    pub(super) fn table(&self, name: &str) -> Option<TablePlace<'_>> {
        let table = self.tables.get(name)?;
        let [column] = table.columns[..] else { return None };
        Some(TablePlace { column, place: &table.place, padded: table.padded })
    }

    /// The vectors of one variable.
    ///
    /// - Shapes: `categoricals [B, T, C]` (u32 codes), `reals [B, T, R]` -> `[B, T, width]`.
    /// - Errors: no such variable; on the CPU, a code beyond its table.
    pub fn forward(&self, name: &str, categoricals: &Tensor, reals: &Tensor) -> Result<Tensor> {
        if let Some(table) = self.tables.get(name) {
            return table.forward(categoricals).with_context(|| format!("embed {name}"));
        }
        let real = self.reals.get(name).with_context(|| unknown(name))?;
        Ok(real.line.forward(&reals.narrow(2, real.column, 1)?)?)
    }
}

impl Table {
    fn forward(&self, categoricals: &Tensor) -> Result<Tensor> {
        let (batch, n_steps, _) = categoricals.dims3()?;
        let weight = if self.padded { self.with_fixed_first_row()? } else { self.weight.clone() };
        let mut sum: Option<Tensor> = None;
        for &column in &self.columns {
            let codes = categoricals.narrow(2, column, 1)?.flatten_all()?;
            let rows = weight.index_select(&codes, 0)?;
            sum = Some(match sum {
                Some(sum) => (sum + rows)?,
                None => rows,
            });
        }
        let sum = sum.context("a group without columns")?;
        Ok(sum.reshape((batch, n_steps, self.width))?)
    }

    fn with_fixed_first_row(&self) -> candle_core::Result<Tensor> {
        let (first, n) = (self.weight.narrow(0, 0, 1)?.detach(), self.weight.dim(0)?);
        if n == 1 { Ok(first) } else { Tensor::cat(&[&first, &self.weight.narrow(0, 1, n - 1)?], 0) }
    }
}

/// Groups are sums of embeddings and have no padding row.
fn is_padded(config: &TftConfig, table: &str) -> bool {
    let listed = config.embedding_paddings.iter().any(|name| name == table);
    listed && !config.categorical_groups.contains_key(table)
}

/// Where a column stands; [`TftConfig::validate`] has made sure that it does.
fn place(columns: &[String], name: &str) -> usize {
    columns.iter().position(|column| column == name).expect("a validated config lists the column")
}

fn unknown(name: &str) -> String {
    format!("no variable {name}")
}
