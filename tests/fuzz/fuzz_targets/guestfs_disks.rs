#![no_main]

// The first byte says of how many disks of the same length the rest is.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((count, rest)) = bytes.split_first() else {
        return;
    };
    let count = usize::from(count % 8) + 1;
    let disks: Vec<&[u8]> = rest.chunks((rest.len() / count).max(1)).take(count).collect();
    guestfs::fuzz_disks(&disks);
});
