//! `tftctl` keeps a forecasting model of a server fleet fresh: it buffers metrics durably, trains a Temporal
//! Fusion Transformer (TFT) for one more epoch every night, examines it against the model in service, promotes
//! it only if it is fit, and tells people what happened.
//!
//! # Layers
//!
//! Arrows point down: a module uses modules of its own layer or below (`tests/promises/layering.rs` keeps it true).
//!
//! | layer | modules | refuses to know |
//! |---|---|---|
//! | 0 ground | [`error`] [`platform`] [`fsx`] [`progress`] [`clock`] [`http`] [`secrets`] | forecasting |
//! | 1 words | [`calendar`] [`schema`] [`config`] [`site`] [`stats`] [`model_manifest`] [`precision`] | polars, candle |
//! | 2 data | [`buffer`] [`window`] [`simulate`] | tensors |
//! | 2 network | [`ops`] [`model`] | dataframes, dates, folders |
//! | 3 bridge | [`dataset`] | training |
//! | 4 learning | [`train`] [`evaluate`] | who is champion |
//! | 5 care | [`registry`] (weights are opaque, hashed files) [`validate`] | terminals |
//! | 6 telling | [`report`] [`notify`] [`schedule`] | how the numbers came to be |
//! | 7 night | [`forecast`] [`nightly`] [`benchmark`] | terminals |
//! | 8 rim | [`cli`] | nothing |
//!
//! Plain structs in, plain structs out: `now`, seeds and devices are arguments. Below the rim nothing prints, reads
//! the environment or the clock, or ends the process.
//!
//! # A night
//!
//! [`nightly`] calls, in this order, what the subcommands of the same names call: [`buffer`] seals the days that are
//! over and aggregates them to steps; [`forecast`] scores what it forecast last time; [`window`] puts the last days on
//! one grid, judges and splits them; [`train`] looks at the grid through [`dataset`] and adds an epoch to the lineage;
//! [`validate`] examines the new model beside the champion and naive forecasts ([`evaluate`]); [`registry`] moves the
//! pointer; [`forecast`] serves the fleet; [`report`] writes the night down and [`notify`] tells people.
//!
//! # State on disk
//!
//! | below the site | owned by | how it is written |
//! |---|---|---|
//! | `tftctl.toml` | [`config`] | by `init`, then by people |
//! | `data_buffer/open/<day>/` | [`buffer`] | checksummed segments, synced before they are acknowledged |
//! | `data_buffer/metrics_<day>.parquet` | [`buffer`] | replaced whole, read back, then the segments go |
//! | `data_buffer/steps/`, `quarantine/` | [`buffer`] | derived, with a digest of itself; bad rows with their reasons |
//! | `data_buffer/imports/` | [`buffer`] | how far each import came, replaced whole after its rows were acknowledged |
//! | `data_buffer/readers/` | [`buffer`] | one locked file per running reader, named after the days it reads |
//! | `data_buffer/removed/<day>/` | [`buffer`] | damaged and torn files as a repair or a rotation found them, each with its reason; never read |
//! | `archive/` | [`buffer`] | days that are too old, if the site keeps them: copied and proven before the original goes |
//! | `windows/<end>-<digest>/` | [`window`] | a folder that appears whole, never edited; the name is a digest of its inputs |
//! | `checkpoints/{last,previous}/` | [`train`] | a folder that appears whole over the one before |
//! | `checkpoints/lineages/<id>_<steps>/` | [`train`] | a copy of `last` that appears whole, before another lineage replaces it |
//! | `models/<id>/` | [`train`], its `validation.json` [`registry`] | a folder that appears whole; the verdict is bound to the weights' sha256 |
//! | `models/champion.json` | [`registry`] | one small file, replaced last |
//! | `forecasts/<date>.parquet` | [`forecast`] | replaced whole |
//! | `logs/continuous_learning/` | [`report`], `audit.jsonl` [`registry`] | `metrics.json` replaced whole, logs appended |
//! | `state/nights/<date>.json` | [`nightly`] | replaced whole after every stage |
//! | `state/site.lock` | [`site`] | held by whoever changes models, checkpoints or the pointer |
//!
//! # Invariants
//!
//! 1. What is visible under its own name is complete; `.staging-` names are unfinished work of the living or the dead.
//! 2. A row that was acknowledged is on stable storage, and is read exactly once.
//! 3. A buffer that came from elsewhere is only read.
//! 4. Nothing at or after a sample's cutoff reaches its inputs; nothing outside the training part reaches a statistic;
//!    nothing after `now` is seen by a night.
//! 5. `--epochs N` adds N epochs; a training that made no step, or moved no weight, is an error; a new lineage leaves
//!    the old one's state and models where they can be gone on from.
//! 6. The champion changes by one rename, and only to bytes that passed the exam or by a logged act of a person.
//! 7. A night is done once per logical date, whatever is killed when.

// The map of a module names its private files too: whoever reads it reads the code.
#![allow(rustdoc::private_intra_doc_links)]

pub mod clock;
pub mod error;
pub mod fsx;
pub mod http;
pub mod platform;
pub mod progress;
pub mod secrets;

pub mod calendar;
pub mod config;
pub mod model_manifest;
pub mod precision;
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

pub mod benchmark;
pub mod forecast;
pub mod nightly;

pub mod cli;
