//! Tests of the crate's public face.
#![expect(
    clippy::unwrap_used,
    reason = "a test says that something failed by panicking"
)]

mod judges;
mod writes;

use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport as _, Durability, MemoryDisk};

/// Where a disk of `size` bytes has data, each sector with a pattern of its own: start, middle, end and between.
fn places(size: u64) -> Vec<u64> {
    let mut places: Vec<u64> = (0..8).map(|part| size / 8 * part / 512 * 512).collect();
    places.extend([512, size - 512]);
    places.sort_unstable();
    places.dedup();
    places
}

fn pattern(place: u64) -> u8 {
    u8::try_from(place / 512 % 251).unwrap() + 1
}

fn disk(size: u64) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(size).with_identity(*b"\x01\x23\x45\x67\x89\xab\xcd\xefthe disk");
    for place in places(size) {
        let sector = Bytes::from(vec![pattern(place); 512]);
        disk.write(place, &[sector], Durability::Unstable).unwrap();
    }
    Arc::new(disk)
}
