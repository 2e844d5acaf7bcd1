//! `--samples-per-epoch` and `--sample-stride`: what an epoch takes in this run, whatever the config says.

use clap::Args;

use crate::config::Config;

#[derive(Args)]
pub struct SamplingArgs {
    /// Samples an epoch takes, drawn anew each epoch; 0 takes all [default: training.samples_per_epoch]
    #[arg(long, value_name = "N")]
    samples_per_epoch: Option<usize>,
    /// Take one cutoff of a server in N, drawn anew each epoch [default: training.sample_stride]
    #[arg(long, value_name = "N")]
    sample_stride: Option<usize>,
}

impl SamplingArgs {
    /// Puts what was typed in the place of what the config says.
    ///
    /// - Errors: what the config would not accept either (a usage error).
    pub fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        let training = &mut config.training;
        training.samples_per_epoch = self.samples_per_epoch.unwrap_or(training.samples_per_epoch);
        training.sample_stride = self.sample_stride.unwrap_or(training.sample_stride);
        config.ensure_valid()
    }
}
