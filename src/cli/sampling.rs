//! `--samples-per-epoch` and `--sample-stride`: what an epoch takes in this run, whatever the config says.

use clap::Args;

use crate::config::TrainingConfig;

#[derive(Args)]
pub struct SamplingArgs {
    /// Samples an epoch takes, drawn anew each epoch; 0 takes all [default: training.samples_per_epoch]
    #[arg(long, value_name = "N")]
    samples_per_epoch: Option<usize>,
    /// Take one cutoff of a server in N, drawn anew each epoch [default: training.sample_stride]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sample_stride: Option<u32>,
}

impl SamplingArgs {
    /// Puts what was typed in the place of what the config says.
    pub fn apply(&self, training: &mut TrainingConfig) {
        if let Some(n) = self.samples_per_epoch {
            training.samples_per_epoch = n;
        }
        if let Some(stride) = self.sample_stride {
            training.sample_stride = stride as usize;
        }
    }
}
