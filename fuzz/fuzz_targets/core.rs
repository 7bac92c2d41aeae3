//! See `fuzz::core`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::core::run(data));
