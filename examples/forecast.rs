//! Forecasts a site's fleet from code, as `tftctl predict` does.
//!
//! cargo run --example forecast -- path/to/site 2024-01-31T02:00:00Z

use std::path::Path;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use tftctl::forecast::{ForecastRequest, make};
use tftctl::progress::Silent;
use tftctl::site::Site;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().context("usage: forecast SITE [TIME]")?;
    let at: DateTime<Utc> = args.next().map_or(Ok(Utc::now()), |text| text.parse())?;
    let site = Site::open(Path::new(&dir), &[])?;
    let device = candle_core::Device::Cpu;
    let request = ForecastRequest { model: None, servers: Vec::new(), at, device: &device };
    let forecast = make(&site, &request, &Silent)?;
    for series in &forecast.series {
        let last = series.steps.last().context("a forecast has steps")?;
        println!("{} {} at {}: {:?}", series.server_name, series.metric, last.time, last.values);
    }
    Ok(())
}
