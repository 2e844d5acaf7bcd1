//! (in the making)

pub mod device;
pub mod guard;
pub mod lr_schedule;
pub mod optimizer;
pub mod order;
