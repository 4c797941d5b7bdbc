#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| repo::overlay::fuzz::fuzz_overlay_formats(bytes));
