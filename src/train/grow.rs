//! Vocabularies grow, and with them the embedding tables: rows are appended, nobody else's row changes.
//!
//! A new server begins where its kind is: with the mean row of the known servers of its profile that are in the
//! window; without any, and for new profiles and statuses, with the row of the unknown.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use crate::dataset::{Preprocessing, Vocabulary};
use crate::model::TftConfig;
use crate::window::Server;

/// The table with one row per server.
const SERVER_TABLE: &str = "server_name";

/// Appends the rows that the tables of `config` have more than `weights`.
///
/// `prior` is the vocabulary of `weights`, `preprocessing` the one `config` was made for; `servers` are the window's.
///
/// - Errors: a table is missing, or would have to shrink; it is named.
pub fn grow_tables(
    weights: &mut HashMap<String, Tensor>,
    config: &TftConfig,
    prior: &Vocabulary,
    preprocessing: &Preprocessing,
    servers: &[Server],
) -> Result<()> {
    for table in &config.embedding_sizes {
        let name = format!("input_embeddings.embeddings.{}.weight", table.name);
        let old = weights.get(&name).with_context(|| format!("find table {name}"))?;
        let (n_rows, width) = old.dims2()?;
        ensure!(n_rows <= table.classes, "table {name} has {n_rows} rows for {} names", table.classes);
        if n_rows == table.classes {
            continue;
        }
        let mut rows: Vec<f32> = old.flatten_all()?.to_vec1()?;
        let n_known = rows.len();
        for code in n_rows..table.classes {
            let kin = if table.name == SERVER_TABLE {
                kin_of(&preprocessing.vocabulary.servers[code - 1], prior, servers)
            } else {
                Vec::new()
            };
            let row = mean_row(&rows[..n_known], width, &kin);
            rows.extend(row);
        }
        weights.insert(name, Tensor::from_vec(rows, (table.classes, width), &Device::Cpu)?);
    }
    Ok(())
}

/// Codes of the known servers that share the newcomer's profile in this window.
fn kin_of(newcomer: &str, prior: &Vocabulary, servers: &[Server]) -> Vec<usize> {
    let Some(profile) = servers.iter().find(|s| s.name == newcomer).map(|s| &s.profile) else {
        return Vec::new();
    };
    let known: HashMap<&str, usize> =
        prior.servers.iter().enumerate().map(|(position, name)| (name.as_str(), position + 1)).collect();
    let kin = servers.iter().filter(|server| server.profile == *profile);
    kin.filter_map(|server| known.get(server.name.as_str()).copied()).collect()
}

/// The mean of the rows of `codes`; row 0 without any.
fn mean_row(rows: &[f32], width: usize, codes: &[usize]) -> Vec<f32> {
    let codes = if codes.is_empty() { &[0][..] } else { codes };
    let mean = |column: usize| {
        let sum: f64 = codes.iter().map(|code| f64::from(rows[code * width + column])).sum();
        (sum / codes.len() as f64) as f32
    };
    (0..width).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_row_is_that_of_its_kin_or_of_the_unknown() {
        let rows = [9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0];
        assert_eq!(mean_row(&rows, 2, &[1, 2]), [2.0, 3.0]);
        assert_eq!(mean_row(&rows, 2, &[]), [9.0, 9.0]);
    }
}
