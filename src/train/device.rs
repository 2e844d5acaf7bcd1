//! On what a network is trained: the choice as typed, and what became of it.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use candle_core::Device;
use candle_core::utils::cuda_is_available;
use serde::{Deserialize, Serialize};

use crate::error::{HintExt, Refusal};
use crate::ops::cuda;
use crate::precision::Precision;

/// `--device auto|cpu|cuda[:N]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = anyhow::Error;

    /// - Errors: a usage error that lists what can be asked for.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "auto" => Ok(DeviceChoice::Auto),
            None if text == "cpu" => Ok(DeviceChoice::Cpu),
            None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
            Some(("cuda", number)) if number.parse::<usize>().is_ok() => {
                Ok(DeviceChoice::Cuda(number.parse()?))
            }
            _ => Err(Refusal::usage(format!("`{text}` is no device: write auto, cpu, cuda or cuda:1"))),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// The device, and one line that says which it is and why.
    ///
    /// - Errors: CUDA was asked for and cannot be had (a usage error with the way out).
    pub fn resolve(self) -> Result<(Device, String)> {
        match self {
            DeviceChoice::Cpu => Ok((Device::Cpu, "cpu: as asked".to_owned())),
            DeviceChoice::Auto if !cuda_is_available() => {
                Ok((Device::Cpu, "cpu: this program was built without CUDA".to_owned()))
            }
            DeviceChoice::Auto => Ok(match open_cuda(0) {
                Ok(device) => (device, "cuda:0: found".to_owned()),
                Err(reason) => (Device::Cpu, format!("cpu: no CUDA device ({reason})")),
            }),
            DeviceChoice::Cuda(number) => match open_cuda(number) {
                Ok(device) => Ok((device, format!("cuda:{number}: as asked"))),
                Err(reason) => Err(Refusal::usage(format!("cuda:{number} cannot be used: {reason}")))
                    .hint(|| "`--device auto` takes the CPU where there is no CUDA device".into()),
            },
        }
    }

    /// The device of a training that is to multiply in `precision`; the line says what becomes of that.
    ///
    /// - Errors: those of [`DeviceChoice::resolve`]; a program built for GPUs that have no such precision (a usage error).
    pub fn resolve_for(self, precision: Precision) -> Result<(Device, String)> {
        let (device, reason) = self.resolve()?;
        let reason = match precision {
            Precision::Float32 => reason,
            _ if device.is_cpu() => {
                format!("{reason} (training.precision = {precision} is for GPUs: float32)")
            }
            _ => {
                cuda::set_precision(&device, precision)
                    .map_err(|error| Refusal::usage(format!("training.precision: {error}")))?;
                format!("{reason}, products in {precision}")
            }
        };
        Ok((device, reason))
    }
}

/// Opens a CUDA device; the reason it cannot be had is one line.
///
/// The driver library is looked up when first used, and a machine without one answers with a panic: to us that
/// is a machine without CUDA.
fn open_cuda(number: usize) -> Result<Device, String> {
    if !cuda_is_available() {
        return Err("this program was built without the feature `cuda`".to_owned());
    }
    match std::panic::catch_unwind(|| Device::new_cuda(number)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or("unknown").to_owned()),
        Err(_) => Err("the CUDA driver cannot be loaded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[track_caller]
    fn case(text: &str, expected: Option<DeviceChoice>) {
        assert_eq!(text.parse::<DeviceChoice>().ok(), expected, "{text}");
    }

    #[test]
    fn choices_are_read() {
        case("auto", Some(DeviceChoice::Auto));
        case("cpu", Some(DeviceChoice::Cpu));
        case("cuda", Some(DeviceChoice::Cuda(0)));
        case("cuda:3", Some(DeviceChoice::Cuda(3)));
        case("cuda:", None);
        case("cpu:1", None);
        case("gpu", None);
        let error = "gpu".parse::<DeviceChoice>().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
    }

    #[test]
    fn auto_always_finds_something_and_says_why() {
        let (_, reason) = DeviceChoice::Auto.resolve().unwrap();
        assert!(reason.starts_with("cpu: ") || reason.starts_with("cuda:0"), "{reason}");
    }

    #[test]
    fn a_cpu_says_that_it_has_no_other_precision() {
        let line = |precision| DeviceChoice::Cpu.resolve_for(precision).unwrap().1;
        assert_eq!(line(Precision::Float32), "cpu: as asked");
        assert_eq!(line(Precision::Bf16), "cpu: as asked (training.precision = bf16 is for GPUs: float32)");
    }

    #[test]
    fn asking_for_a_missing_device_is_a_usage_error() {
        let Err(error) = DeviceChoice::Cuda(997).resolve() else { panic!("there is no such device") };
        assert_eq!(Exit::of(&error), Exit::Usage);
    }
}
