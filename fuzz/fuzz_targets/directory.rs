//! See `fuzz::directory`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::directory::run(data));
