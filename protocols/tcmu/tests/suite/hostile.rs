//! Rings that are not as they should be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use export::{MemoryDisk, PayloadBuffers};
use proptest::prelude::*;
use scsi::UnitOptions;
use tcmu::{Metrics, RingError, ServedUnit, SharedMemory, Unit, UnitError};

use crate::kernel::{DATA_AT, Kernel, RING_AT, RING_BYTES, Served, serve};

/// Waits until the ring is served no more, which nobody but itself ends here.
fn wait_for_end(unit: ServedUnit) {
    let begun = Instant::now();
    while unit.is_served() {
        assert!(begun.elapsed() < PATIENCE, "the ring is still served");
        std::thread::yield_now();
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn disk() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new(1 << 20))
}

#[test]
fn a_mailbox_that_cannot_be_is_refused() {
    let open = |change: &dyn Fn(&SharedMemory)| {
        let (kernel, _) = Kernel::new();
        change(&kernel.memory);
        let unit = Unit::new(
            Arc::clone(&kernel.memory),
            disk(),
            UnitOptions::default(),
            PayloadBuffers::new(0),
            Metrics::unregistered(),
        );
        match unit {
            Ok(_) => None,
            Err(UnitError::Ring(error)) => Some(error),
            Err(error) => panic!("{error}"),
        }
    };
    let put = |at: u64, value: u32| {
        move |memory: &SharedMemory| assert!(memory.write(at, &value.to_ne_bytes()))
    };
    assert_eq!(open(&|_| {}), None);
    assert_eq!(open(&put(0, 0x000f_0003)), Some(RingError::Version(3)));
    assert_eq!(open(&put(0, 0x000e_0002)), Some(RingError::InOrder));
    for (at, value) in [
        (4, 8),
        (4, 132),
        (4, u32::MAX),
        (8, 2052),
        (8, 8),
        (8, u32::MAX - 7),
    ] {
        let error = open(&put(at, value));
        assert!(
            matches!(error, Some(RingError::Ring { .. })),
            "{at} {value}: {error:?}"
        );
    }
    for tail in [4, RING_BYTES, u32::MAX] {
        assert_eq!(open(&put(64, tail)), Some(RingError::Head(tail)));
    }
}

#[test]
fn an_entry_that_cannot_be_ends_the_ring_and_touches_nothing() {
    let sound = || {
        let mut entry = vec![0; 144];
        entry[8] = 1;
        entry[48..56].copy_from_slice(&DATA_AT.to_ne_bytes());
        entry[56..64].copy_from_slice(&4096_u64.to_ne_bytes());
        // READ (10) of 8 blocks.
        entry[128..138].copy_from_slice(&[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        entry
    };
    let spoil = |at: usize, bytes: &[u8]| {
        let mut entry = sound();
        entry[at..at + bytes.len()].copy_from_slice(bytes);
        entry
    };
    let end = DATA_AT + 640 * 4096;
    let too_short = vec![0; 104];
    for (what, mut entry) in [
        ("too short for an answer", too_short),
        ("more vectors than fit", spoil(8, &7_u32.to_ne_bytes())),
        ("all vectors that can be counted", spoil(8, &[0xff; 4])),
        ("data in the mailbox", spoil(48, &0_u64.to_ne_bytes())),
        (
            "data in the ring",
            spoil(48, &(RING_AT + 200).to_ne_bytes()),
        ),
        ("data at the end", spoil(48, &(end - 4095).to_ne_bytes())),
        ("data beyond all", spoil(48, &u64::MAX.to_ne_bytes())),
        ("data without an end", spoil(56, &u64::MAX.to_ne_bytes())),
    ] {
        let Served { mut kernel, unit } = serve(disk());
        let before = kernel.bytes(DATA_AT, 8192);
        let cdb_at = 128.min(entry.len() - 16);
        kernel.put(&mut entry, 1, 3, Some(cdb_at));
        kernel.ring();
        wait_for_end(unit);
        assert_eq!(kernel.tail(), 0, "{what}");
        assert_eq!(kernel.bytes(DATA_AT, 8192), before, "{what}");
    }
    // A command elsewhere: before its entry, and behind its end.
    for offset in [
        0_u64,
        RING_AT - 8,
        RING_AT + 4,
        RING_AT + 140,
        RING_AT + 144,
        u64::MAX,
    ] {
        let Served { mut kernel, unit } = serve(disk());
        let mut entry = spoil(24, &offset.to_ne_bytes());
        kernel.put(&mut entry, 1, 3, None);
        kernel.ring();
        wait_for_end(unit);
        assert_eq!(kernel.tail(), 0, "{offset}");
    }
    let Served { mut kernel, unit } = serve(disk());
    let mut entry = sound();
    kernel.put(&mut entry, 1, 3, Some(128));
    kernel.ring();
    kernel.wait_for_bell();
    assert!(unit.is_served());
    assert_eq!(kernel.tail(), 144, "the sound one is answered");
}

#[test]
fn a_head_that_cannot_be_ends_the_ring() {
    for head in [3, RING_BYTES, u32::MAX] {
        let Served { mut kernel, unit } = serve(disk());
        kernel.memory.write(12, &head.to_ne_bytes());
        kernel.ring();
        wait_for_end(unit);
        assert_eq!(kernel.tail(), 0, "{head}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_do_no_harm(data in proptest::collection::vec(any::<u8>(), 0..5000)) {
        tcmu::fuzz::fuzz_ring(&data);
    }

    #[test]
    fn entries_with_any_bytes_changed_do_no_harm(
        changes in proptest::collection::vec((0..700_usize, any::<u8>()), 0..12),
    ) {
        let mut data = vec![0xa1];
        for id in 0..4_u8 {
            let at = 128 + u64::from(id) * 144;
            let mut entry = [0; 144];
            entry[..4].copy_from_slice(&(144_u32 | 1).to_ne_bytes());
            entry[4] = id;
            entry[8] = 1;
            entry[24..32].copy_from_slice(&(at + 128).to_ne_bytes());
            entry[48..56].copy_from_slice(&8192_u64.to_ne_bytes());
            entry[56..64].copy_from_slice(&4096_u64.to_ne_bytes());
            entry[128..138].copy_from_slice(&[0x28 | (id & 2), 0, 0, 0, 0, id, 0, 0, 8, 0]);
            data.extend(entry);
        }
        for (at, byte) in changes {
            if let Some(place) = data.get_mut(at) {
                *place = byte;
            }
        }
        tcmu::fuzz::fuzz_ring(&data);
    }
}
