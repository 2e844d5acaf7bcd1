//! One binary for all promises that need more than one module.

#[path = "promises/parity.rs"]
mod parity;
