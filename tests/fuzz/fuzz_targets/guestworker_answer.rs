#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    guestworker::fuzz_worker(bytes);
});
