#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    guestfs::fuzz_disk(bytes);
});
