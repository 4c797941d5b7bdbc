#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nfs::fuzz_record(bytes));
