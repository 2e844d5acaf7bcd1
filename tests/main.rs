//! The promises of the README, each a module, tested on the real binary and on real data where it is there.

mod common;
mod promises;
