//! `models/pins.json`: models that pruning spares because a person said so.

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::audit::{Act, By, Deed};
use super::{ModelId, Registry};
use crate::fsx;

const FORMAT: u32 = 1;

/// A model to keep, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    pub model_id: ModelId,
    pub at: DateTime<Utc>,
    pub reason: String,
}

#[derive(Serialize, Deserialize)]
struct Pins {
    format: u32,
    pins: Vec<Pin>,
}

impl Registry {
    /// The pinned models.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        let stored: Option<Pins> = fsx::read_versioned(&self.models_dir.join("pins.json"), FORMAT)?;
        Ok(stored.map(|stored| stored.pins).unwrap_or_default())
    }

    /// Keeps a model from pruning; false if it was pinned already.
    ///
    /// - Errors: there is no such model.
    pub fn pin(&self, id: &ModelId, reason: &str, by: By, now: DateTime<Utc>) -> Result<bool> {
        self.ensure_exists(id)?;
        let mut pins = self.pins()?;
        if pins.iter().any(|pin| pin.model_id == *id) {
            return Ok(false);
        }
        pins.push(Pin { model_id: id.clone(), at: now, reason: reason.to_owned() });
        self.write_pins(pins, Deed::new(Act::Pin, id.as_str(), by, reason, now))
    }

    /// Lets pruning have a model again; false if it was not pinned.
    pub fn unpin(&self, id: &ModelId, reason: &str, by: By, now: DateTime<Utc>) -> Result<bool> {
        let mut pins = self.pins()?;
        let n_before = pins.len();
        pins.retain(|pin| pin.model_id != *id);
        if pins.len() == n_before {
            return Ok(false);
        }
        self.write_pins(pins, Deed::new(Act::Unpin, id.as_str(), by, reason, now))
    }

    fn write_pins(&self, pins: Vec<Pin>, deed: Deed) -> Result<bool> {
        self.settle()?;
        fsx::write_json(&self.models_dir.join("pins.json"), &Pins { format: FORMAT, pins })?;
        self.audit.append(deed)?;
        Ok(true)
    }
}
