//! `tftctl` keeps a forecasting model of a server fleet fresh: it buffers metrics durably, trains a Temporal
//! Fusion Transformer (TFT) for one more epoch every night, examines it against the model in service, promotes
//! it only if it is fit, and tells people what happened.
//!
//! # Layers
//!
//! Arrows point down: a module uses modules of its own layer or below (`tests/layering.rs` keeps it true).
//!
//! | layer | modules | refuses to know |
//! |---|---|---|
//! | 0 ground | [`error`] [`platform`] [`fsx`] [`progress`] [`clock`] [`http`] | forecasting |
//! | 1 words | [`calendar`] [`schema`] [`config`] [`site`] [`stats`] [`model_manifest`] | polars, candle |
//! | 2 data | [`buffer`] [`window`] [`simulate`] | tensors |
//! | 2 network | [`ops`] [`model`] | dataframes, dates, folders |
//! | 3 bridge | [`dataset`] | training |
//! | 4 learning | [`train`] [`evaluate`] | who is champion |
//! | 5 care | [`registry`] (weights are opaque, hashed files) [`validate`] | terminals |
//! | 6 telling | [`report`] [`notify`] [`schedule`] | how the numbers came to be |
//! | 7 night | [`forecast`] [`nightly`] | terminals |
//! | 8 rim | [`cli`] | nothing |

pub mod clock;
pub mod error;
pub mod fsx;
pub mod http;
pub mod platform;
pub mod progress;

pub mod calendar;
pub mod config;
pub mod model_manifest;
pub mod schema;
pub mod site;
pub mod stats;

pub mod buffer;
pub mod simulate;
pub mod window;

pub mod model;
pub mod ops;

pub mod dataset;

pub mod evaluate;
pub mod train;

pub mod registry;
pub mod validate;

pub mod notify;
pub mod report;
pub mod schedule;

pub mod forecast;
pub mod nightly;

pub mod cli;
