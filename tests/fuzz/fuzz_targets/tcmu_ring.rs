#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tcmu::fuzz::fuzz_ring(bytes));
