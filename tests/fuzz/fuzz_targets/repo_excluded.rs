#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| repo::fuzz::fuzz_excluded(bytes));
