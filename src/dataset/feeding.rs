//! Whether a lineage's preprocessing and a network that came from elsewhere belong together.
//!
//! A network reads columns by place. One that is fed other columns, or the same in another order, computes
//! something, and nobody would notice: so every list is compared, and the first difference is named.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use crate::config::{Config, ModelConfig};
use crate::model::{TftConfig, Transformation};

use super::columns::{PROFILE, SERVER, STATUS, real_names, tft_config};
use super::preprocessing::Preprocessing;
use super::scaler::Stats;

impl Preprocessing {
    /// Checks that what this makes of a grid is what `network` reads, column by column, and that what the network
    /// puts out is what this takes it for.
    ///
    /// - Errors: the first difference, by the name of the input or the argument; a statistic that is no number.
    pub fn ensure_feeds(&self, network: &TftConfig) -> Result<()> {
        let sizes = ModelConfig { hidden_size: network.hidden_size, ..ModelConfig::default() };
        let made = tft_config(self, &sizes);
        let lists = [
            ("static_categoricals", &made.static_categoricals, &network.static_categoricals),
            ("static_reals", &made.static_reals, &network.static_reals),
            (
                "time_varying_categoricals_encoder",
                &made.time_varying_categoricals_encoder,
                &network.time_varying_categoricals_encoder,
            ),
            (
                "time_varying_categoricals_decoder",
                &made.time_varying_categoricals_decoder,
                &network.time_varying_categoricals_decoder,
            ),
            (
                "time_varying_reals_encoder",
                &made.time_varying_reals_encoder,
                &network.time_varying_reals_encoder,
            ),
            (
                "time_varying_reals_decoder",
                &made.time_varying_reals_decoder,
                &network.time_varying_reals_decoder,
            ),
            ("x_reals", &made.x_reals, &network.x_reals),
            ("x_categoricals", &made.x_categoricals, &network.x_categoricals),
        ];
        for (what, made, read) in lists {
            ensure_same(what, made, read)?;
        }
        self.ensure_tables(&made, network)?;
        self.ensure_outputs(&made, network)?;
        self.ensure_usable()
    }

    fn ensure_tables(&self, made: &TftConfig, network: &TftConfig) -> Result<()> {
        ensure!(
            network.categorical_groups.is_empty(),
            "the network has categorical_groups, the preprocessing none"
        );
        for table in &made.embedding_sizes {
            let name = &table.name;
            let Some(read) = network.embedding_sizes.iter().find(|read| read.name == *name) else {
                bail!("the network has no embedding of `{name}`");
            };
            let (codes, width) = (table.classes, made.embedding_size(table));
            ensure!(
                read.classes == codes,
                "the embedding of `{name}` has {} rows, the vocabulary {codes} codes with that of the unknown",
                read.classes
            );
            let found = network.embedding_size(read);
            ensure!(
                found == width,
                "the embedding of `{name}` is {found} wide, the preprocessing says {width}"
            );
        }
        Ok(())
    }

    fn ensure_outputs(&self, made: &TftConfig, network: &TftConfig) -> Result<()> {
        let (found, expected) = (network.max_encoder_length, self.encoder_length);
        ensure!(found == expected, "max_encoder_length is {found}, the preprocessing has {expected}");
        let (found, expected) = (&network.output_sizes, &made.output_sizes);
        ensure!(found == expected, "output_size is {found:?}, targets and quantiles make it {expected:?}");
        let transformed = network.output_transformations.iter().position(|t| *t != Transformation::Identity);
        if let Some(target) = transformed {
            bail!(
                "`{}` comes out transformed ({:?}): this preprocessing scales outside the network",
                self.targets[target],
                network.output_transformations[target]
            );
        }
        Ok(())
    }

    /// Beyond parts that fit together: values that can be computed with.
    fn ensure_usable(&self) -> Result<()> {
        let (encoder_length, horizon, step_secs) = (self.encoder_length, self.horizon, self.step_secs);
        ensure!(encoder_length > 0 && horizon > 0 && step_secs > 0, "a length of the preprocessing is 0");
        let is_ascending = self.quantiles.windows(2).all(|pair| pair[0] < pair[1]);
        let is_inside = self.quantiles.iter().all(|level| *level > 0.0 && *level < 1.0);
        ensure!(
            is_ascending && is_inside,
            "the quantiles {:?} do not ascend between 0 and 1",
            self.quantiles
        );
        let scaler = &self.scaler;
        ensure!(scaler.floor.len() == self.metrics.len(), "the scaler has no floor for every metric");
        for stats in scaler.servers.iter().chain(&scaler.profiles).chain([&scaler.fleet]) {
            if let Some(metric) = unusable(stats) {
                bail!("a centre or scale of `{}` is no usable number", self.metrics[metric]);
            }
        }
        Ok(())
    }
}

fn unusable(stats: &Stats) -> Option<usize> {
    let is_usable = |(centre, scale): (&f32, &f32)| centre.is_finite() && scale.is_finite() && *scale > 0.0;
    stats.centre.iter().zip(&stats.scale).position(|pair| !is_usable(pair))
}

fn ensure_same(what: &str, made: &[String], read: &[String]) -> Result<()> {
    if let Some(name) = read.iter().find(|name| !made.contains(name)) {
        bail!("the network reads `{name}` ({what}), which the preprocessing does not make");
    }
    if let Some(name) = made.iter().find(|name| !read.contains(name)) {
        bail!("the preprocessing makes `{name}` ({what}), which the network does not read");
    }
    let first = made.iter().zip(read).find(|(made, read)| made != read);
    if let Some((made, read)) = first {
        bail!("{what} stand in another order: the network has `{read}` where the preprocessing has `{made}`");
    }
    Ok(())
}

/// The inputs of `network` that a site of this config has no column for, in the network's order.
pub fn foreign_inputs(network: &TftConfig, config: &Config) -> Vec<String> {
    let metrics: Vec<String> = config.metrics.iter().map(|metric| metric.name.clone()).collect();
    let reals: BTreeSet<String> = real_names(&metrics, &metrics).into_iter().flatten().collect();
    let categoricals =
        network.x_categoricals.iter().filter(|name| ![SERVER, PROFILE, STATUS].contains(&name.as_str()));
    categoricals.chain(network.x_reals.iter().filter(|name| !reals.contains(*name))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::preprocessing::{EmbeddingDims, FORMAT};
    use crate::dataset::{Scaler, Vocabulary};
    use crate::schema::Metric;

    fn preprocessing() -> Preprocessing {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Preprocessing {
            format: FORMAT,
            metrics: names(&["cpu", "net"]),
            targets: names(&["net"]),
            quantiles: vec![0.1, 0.5, 0.9],
            encoder_length: 12,
            horizon: 4,
            step_secs: 300,
            zone: chrono_tz::UTC,
            has_status: true,
            embedding_dims: EmbeddingDims { server: 3, profile: 2, status: 2 },
            vocabulary: Vocabulary { servers: names(&["a", "b"]), profiles: names(&["p"]), statuses: vec![] },
            scaler: Scaler::fit(None, &[], 2, 1, 2),
        }
    }

    fn network() -> TftConfig {
        preprocessing().tft_config(&ModelConfig { hidden_size: 8, ..ModelConfig::default() })
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Preprocessing, &mut TftConfig), expected: &str) {
        let (mut preprocessing, mut network) = (preprocessing(), network());
        change(&mut preprocessing, &mut network);
        let message = preprocessing.ensure_feeds(&network).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }

    #[test]
    fn a_network_is_fed_what_it_reads_or_the_difference_is_named() {
        preprocessing().ensure_feeds(&network()).unwrap();
        refused(|_, n| n.static_reals.push("cores".into()), "reads `cores` (static_reals)");
        refused(|p, _| p.metrics.push("disk".into()), "`disk`");
        refused(|p, _| p.has_status = false, "reads `status`");
        refused(|_, n| n.time_varying_reals_decoder.truncate(1), "makes `hour_of_day_cos`");
        refused(|_, n| n.x_reals.swap(0, 1), "another order");
        refused(|p, _| p.vocabulary.statuses.push("up".into()), "the embedding of `status` has 1 rows");
        refused(|p, _| p.embedding_dims.server = 4, "the embedding of `server_name` is 3 wide");
        refused(|p, _| p.encoder_length = 13, "max_encoder_length is 12");
        refused(|p, _| p.quantiles.truncate(2), "output_size is [3]");
        refused(
            |_, n| n.output_transformations = vec![Transformation::Softplus],
            "`net` comes out transformed",
        );
    }

    #[test]
    fn values_nobody_can_compute_with_are_refused() {
        refused(|p, _| p.scaler.fleet.scale[1] = 0.0, "`net`");
        refused(|p, _| p.scaler.servers[0].centre[0] = f32::NAN, "`cpu`");
        refused(|p, _| p.quantiles.reverse(), "do not ascend");
        refused(|p, _| p.horizon = 0, "length");
    }

    #[test]
    fn inputs_without_a_column_here_are_listed() {
        let config = Config {
            metrics: vec![Metric::new("cpu", "%"), Metric::new("net", "MB/s")],
            ..Config::default()
        };
        let mut network = network();
        assert_eq!(foreign_inputs(&network, &config), Vec::<String>::new());
        network.x_reals.push("cores".into());
        network.x_categoricals.push("rack".into());
        assert_eq!(foreign_inputs(&network, &config), ["rack", "cores"]);
    }
}
