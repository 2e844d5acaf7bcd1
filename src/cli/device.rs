//! `--device`: which machine part computes.

use clap::Args;

use super::context::Context;
use crate::precision::Precision;
use crate::train::DeviceChoice;

#[derive(Args, Clone)]
pub struct DeviceArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: String,
}

impl DeviceArgs {
    /// What was asked for.
    pub fn choice(&self) -> anyhow::Result<DeviceChoice> {
        self.device.parse()
    }

    /// The device for training steps of `precision`, told likewise.
    pub fn resolve_for(
        &self,
        context: &Context,
        precision: Precision,
    ) -> anyhow::Result<candle_core::Device> {
        let (device, reason) = self.choice()?.resolve_for(precision)?;
        if context.output.verbose || precision != Precision::Float32 {
            context.progress().note(&format!("device {reason}"));
        }
        Ok(device)
    }

    /// The device; with `--verbose` the user is told which it is and why.
    pub fn resolve(&self, context: &Context) -> anyhow::Result<candle_core::Device> {
        let (device, reason) = self.choice()?.resolve()?;
        if context.output.verbose {
            context.progress().note(&format!("device {reason}"));
        }
        Ok(device)
    }
}
