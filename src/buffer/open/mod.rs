//! The open days: folders of checksummed segments, one per appender, that grow until a rotation seals their day.

pub(in crate::buffer) mod flaws;
pub(in crate::buffer) mod frame;
pub(in crate::buffer) mod open_days;
pub(in crate::buffer) mod reader;
pub(in crate::buffer) mod rescue;
pub(in crate::buffer) mod segment;
#[cfg(test)]
mod tests;
pub(in crate::buffer) mod writer;
