//! The parquet reader panics on some damaged files; those panics are caught below, so they must not end the run.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |data: &[u8]| tftctl::buffer::fuzzing::parquet(data));
