//! Reading, writing, verifying, and what others must not see half done.

use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, Durability, ExportError, Extent, MemoryDisk, Segments, ZeroMode,
};
use scsi::{Cdb, Command, SenseKey, Status, UnitOptions, encode_lun};

use crate::support::{
    INVALID_FIELD_IN_CDB, LBA_OUT_OF_RANGE, MIB, WRITE_PROTECTED, cdb6, cdb10, cdb12, cdb16, host,
    target_with, target_with_disk,
};

const MISCOMPARE: (u8, u8) = (0x1d, 0x00);

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ seed).collect()
}

#[test]
fn every_size_of_read_and_write_reaches_the_same_blocks() {
    let host = host(&target_with_disk(), "a");
    let data = pattern(2048, 1);
    for (write, read) in [
        (cdb6(0x0a, 100, 4).to_vec(), cdb6(0x08, 100, 4).to_vec()),
        (
            cdb10(0x2a, 0x18, 200, 4).to_vec(),
            cdb10(0x28, 0x18, 200, 4).to_vec(),
        ),
        (
            cdb12(0xaa, 0x10, 300, 4).to_vec(),
            cdb12(0xa8, 0x08, 300, 4).to_vec(),
        ),
        (
            cdb16(0x8a, 0x08, 400, 4).to_vec(),
            cdb16(0x88, 0x10, 400, 4).to_vec(),
        ),
        (
            cdb16(0x9c, 0x18, 408, 4).to_vec(),
            cdb16(0x88, 0, 408, 4).to_vec(),
        ),
    ] {
        let mut write = write;
        if write[0] == 0x9c {
            // The length of WRITE ATOMIC has 16 bits, behind the boundary.
            write[10..14].copy_from_slice(&[0, 0, 0, 4]);
        }
        host.good(&write, &data);
        assert_eq!(host.good(&read, &[]), data, "{write:02x?}");
    }
    let all = host.good(&cdb6(0x08, 0, 0), &[]);
    assert_eq!(all.len(), 256 * 512, "no blocks of READ(6) are 256");
    assert_eq!(all[100 * 512..104 * 512], data);
}

#[test]
fn large_blocks_lie_where_their_size_says() {
    let disk = Arc::new(MemoryDisk::new(16 * MIB + 512));
    let options = UnitOptions {
        logical_block_bytes: 4096,
        ..UnitOptions::default()
    };
    let host = host(&target_with(disk.clone(), options), "a");
    let capacity = host.good(&cdb10(0x25, 0, 0, 0), &[]);
    assert_eq!(
        capacity,
        [0, 0, 0x0f, 0xff, 0, 0, 0x10, 0],
        "the rest is left out"
    );
    host.write(3, &pattern(8192, 3));
    assert_eq!(disk.read(12288, 8192).unwrap().to_vec(), pattern(8192, 3));
    host.bad(
        &cdb10(0x28, 0, 4095, 2),
        &[],
        SenseKey::IllegalRequest,
        LBA_OUT_OF_RANGE,
    );
}

#[test]
fn what_is_beyond_the_end_is_refused_with_the_first_block_that_is_missing() {
    let host = host(&target_with_disk(), "a");
    let data = vec![0; 2 * 512];
    for cdb in [
        cdb16(0x88, 0, 32767, 2),
        cdb16(0x8a, 0, 32767, 2),
        cdb16(0x8b, 0, 32767, 2),
        cdb16(0x8e, 0, 32767, 2),
        cdb16(0x8f, 0, 32767, 2),
        cdb16(0x90, 0, 32767, 2),
        cdb16(0x91, 0, 32767, 2),
        cdb16(0x93, 0, 32767, 2),
    ] {
        let sense = host.bad(&cdb, &data, SenseKey::IllegalRequest, LBA_OUT_OF_RANGE);
        assert_eq!(sense.information, Some(32768), "{cdb:02x?}");
    }
    let last = u64::MAX;
    host.bad(
        &cdb16(0x88, 0, last, 2),
        &[],
        SenseKey::IllegalRequest,
        LBA_OUT_OF_RANGE,
    );
    host.good(&cdb16(0x88, 0, 32768, 0), &[]);
    host.bad(
        &cdb16(0x88, 0, 32769, 0),
        &[],
        SenseKey::IllegalRequest,
        LBA_OUT_OF_RANGE,
    );
}

#[test]
fn one_command_moves_no_more_than_the_limit() {
    let disk = Arc::new(MemoryDisk::new(64 * MIB));
    let host = host(&target_with(disk, UnitOptions::default()), "a");
    let read = host.good(&cdb12(0xa8, 0, 0, 32768), &[]);
    assert_eq!(read.len() as u64, 16 * MIB);
    for opcode in [0xa8, 0xaa, 0xae, 0xaf] {
        host.bad(
            &cdb12(opcode, 0, 0, 32769),
            &[],
            SenseKey::IllegalRequest,
            INVALID_FIELD_IN_CDB,
        );
    }
}

#[test]
fn a_write_takes_whole_blocks_of_what_came() {
    let host = host(&target_with_disk(), "a");
    host.write(0, &[1; 1024]);
    host.good(&cdb10(0x2a, 0, 0, 2), &[2; 512]);
    assert_eq!(host.read(0, 2), [[2; 512], [1; 512]].concat());
    host.good(&cdb10(0x2a, 0, 0, 1), &[3; 1024]);
    assert_eq!(host.read(0, 2), [[3; 512], [1; 512]].concat());
    host.good(&cdb10(0x2a, 0, 0, 1), &[]);
    host.bad(
        &cdb10(0x2a, 0, 0, 1),
        &[4; 200],
        SenseKey::IllegalRequest,
        (0x0e, 0x03),
    );
    assert_eq!(host.read(0, 1), [3; 512]);
}

#[test]
fn verify_compares_as_bytchk_says() {
    let host = host(&target_with_disk(), "a");
    let data = pattern(2048, 9);
    host.write(8, &data);
    let mut wrong = data.clone();
    wrong[2047] ^= 1;
    for (flags, sent, same) in [
        (0x00, &[][..], true),
        (0x02, &data[..], true),
        (0x02, &wrong[..], false),
    ] {
        for cdb in [
            cdb10(0x2f, flags, 8, 4).to_vec(),
            cdb12(0xaf, flags, 8, 4).to_vec(),
            cdb16(0x8f, flags | 0x10, 8, 4).to_vec(),
        ] {
            if same {
                host.good(&cdb, sent);
            } else {
                host.bad(&cdb, sent, SenseKey::Miscompare, MISCOMPARE);
            }
        }
    }
    host.write(100, &[5; 1024]);
    host.good(&cdb10(0x2f, 0x06, 100, 2), &[5; 512]);
    host.bad(
        &cdb10(0x2f, 0x06, 100, 3),
        &[5; 512],
        SenseKey::Miscompare,
        MISCOMPARE,
    );
    host.bad_field(&cdb10(0x2f, 0x04, 100, 2), &[5; 512], Some(1));
}

#[test]
fn write_and_verify_writes() {
    let host = host(&target_with_disk(), "a");
    for (number, cdb) in [
        (1, cdb10(0x2e, 0x02, 8, 2).to_vec()),
        (2, cdb12(0xae, 0x00, 8, 2).to_vec()),
        (3, cdb16(0x8e, 0x12, 8, 2).to_vec()),
    ] {
        host.good(&cdb, &[number; 1024]);
        assert_eq!(host.read(8, 2), [number; 1024]);
    }
    host.bad_field(&cdb10(0x2e, 0x06, 8, 2), &[0; 1024], Some(1));
}

#[test]
fn compare_and_write_tells_where_it_differs() {
    let host = host(&target_with_disk(), "a");
    let old = pattern(1024, 1);
    host.write(8, &old);
    let mut cdb = cdb16(0x89, 0, 8, 2);
    host.good(&cdb, &[&old[..], &[7; 1024]].concat());
    assert_eq!(host.read(8, 2), [7; 1024]);
    let mut wrong = vec![7; 1024];
    wrong[700] = 8;
    let sense = host.bad(
        &cdb,
        &[&wrong[..], &[9; 1024]].concat(),
        SenseKey::Miscompare,
        MISCOMPARE,
    );
    assert_eq!(sense.information, Some(700));
    assert_eq!(sense.encode()[0], 0xf0, "VALID");
    assert_eq!(host.read(8, 2), [7; 1024], "nothing is written");
    for length in [1024, 4096] {
        host.bad_field(&cdb, &vec![7; length], Some(13));
    }
    cdb[13] = 129;
    host.bad_field(&cdb, &vec![0; 129 * 1024], Some(13));
    host.good(&cdb16(0x89, 0, 8, 0), &[]);
}

#[test]
fn compare_and_write_is_one_step_for_everybody() {
    let target = target_with_disk();
    let rounds = 200_u32;
    let threads: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let host = host(&target, name);
            thread::spawn(move || {
                for _ in 0..rounds {
                    // Counts up in a block, as a cluster takes its lock: read, compare, write.
                    loop {
                        let old = host.read(5, 1);
                        let count = u32::from_be_bytes(old[..4].try_into().unwrap());
                        let mut new = old.clone();
                        new[..4].copy_from_slice(&(count + 1).to_be_bytes());
                        let swap = host.send(&cdb16(0x89, 0, 5, 1), &[old, new].concat());
                        if swap.status == Status::Good {
                            break;
                        }
                        assert_eq!(swap.sense.unwrap().key, SenseKey::Miscompare);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let count = host(&target, "d").read(5, 1);
    assert_eq!(count[..4], (3 * rounds).to_be_bytes());
}

#[test]
fn or_write_sets_bits() {
    let host = host(&target_with_disk(), "a");
    host.write(8, &[0x05; 1024]);
    host.good(&cdb16(0x8b, 0x08, 8, 2), &[0x50; 1024]);
    assert_eq!(host.read(8, 2), [0x55; 1024]);
}

#[test]
fn write_atomic_keeps_to_its_limits() {
    let host = host(&target_with_disk(), "a");
    let atomic = |lba: u64, blocks: u16| {
        let mut cdb = cdb16(0x9c, 0, lba, 0);
        cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    };
    let limits = host.good(&crate::support::vpd(0xb0), &[]);
    let longest = u32::from_be_bytes(limits[44..48].try_into().unwrap());
    host.good(&atomic(0, longest as u16), &vec![1; 512 * longest as usize]);
    assert_eq!(host.read(longest - 1, 1), [1; 512]);
    host.bad_field(&atomic(0, longest as u16 + 1), &[], Some(12));
    let mut boundary = atomic(0, 1);
    boundary[11] = 1;
    host.bad_field(&boundary, &[1; 512], Some(11));
    host.bad(
        &atomic(0, 2),
        &[1; 512],
        SenseKey::IllegalRequest,
        (0x0e, 0x03),
    );
}

#[test]
fn caches_are_flushed_and_filled_within_the_disk() {
    let host = host(&target_with_disk(), "a");
    for cdb in [
        cdb10(0x35, 0, 0, 0),
        cdb10(0x35, 0x02, 7, 9),
        cdb10(0x34, 0x02, 7, 0),
    ] {
        host.good(&cdb, &[]);
    }
    for cdb in [cdb16(0x91, 0, 32768, 0), cdb16(0x90, 0, 7, 9)] {
        host.good(&cdb, &[]);
    }
}

#[test]
fn a_read_only_disk_is_write_protected() {
    let disk = Arc::new(MemoryDisk::new(MIB).into_read_only());
    let host = host(&target_with(disk, UnitOptions::default()), "a");
    let data = vec![0; 1024];
    for cdb in [
        cdb10(0x2a, 0, 0, 1).to_vec(),
        cdb12(0xaa, 0, 0, 1).to_vec(),
        cdb16(0x8a, 0, 0, 1).to_vec(),
        cdb16(0x89, 0, 0, 1).to_vec(),
        cdb16(0x8b, 0, 0, 1).to_vec(),
        cdb16(0x8e, 0, 0, 1).to_vec(),
        cdb16(0x93, 0, 0, 1).to_vec(),
        cdb10(0x41, 0x08, 0, 1).to_vec(),
        cdb10(0x42, 0, 0, 24).to_vec(),
    ] {
        host.bad(&cdb, &data, SenseKey::DataProtect, WRITE_PROTECTED);
    }
    host.read(0, 1);
    host.good(&cdb10(0x35, 0, 0, 0), &[]);
    let mode = host.good(&[0x1a, 0, 0x3f, 0, 255, 0], &[]);
    assert_eq!(mode[2] & 0x80, 0x80, "WP");
}

/// A disk that fails where it is told to, and never answers from memory.
struct Failing {
    disk: MemoryDisk,
    bad_block: u64,
    error: fn() -> ExportError,
}

impl BlockExport for Failing {
    fn properties(&self) -> BlockProperties {
        BlockProperties {
            preferred_size_bytes: 65536,
            ..self.disk.properties()
        }
    }
    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        let bad = self.bad_block * 512;
        if offset <= bad && bad < offset + u64::from(length) {
            return Err((self.error)());
        }
        self.disk.read(offset, length)
    }
    fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
        Err((self.error)())
    }
    fn write_zeroes(&self, _: u64, _: u64, _: ZeroMode, _: Durability) -> Result<(), ExportError> {
        Err((self.error)())
    }
    fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
        Err((self.error)())
    }
    fn flush(&self) -> Result<(), ExportError> {
        Err((self.error)())
    }
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.disk.extents(offset, length, limit)
    }
}

#[test]
fn faults_of_the_storage_are_told_for_what_they_are() {
    let failing = |error| {
        let disk = Failing {
            disk: MemoryDisk::new(MIB),
            bad_block: 77,
            error,
        };
        host(&target_with(Arc::new(disk), UnitOptions::default()), "a")
    };
    let damaged = failing(|| ExportError::Corrupt {
        detail: "chunk".into(),
    });
    let sense = damaged.bad(
        &cdb10(0x28, 0, 0, 1000),
        &[],
        SenseKey::MediumError,
        (0x11, 0x00),
    );
    assert_eq!(sense.information, Some(77), "the block that is bad");
    damaged.read(78, 100);
    let capacity = damaged.good(&cdb16(0x9e, 0x10, 0, 32), &[]);
    assert_eq!(capacity[13], 3, "no physical blocks above 4096");
    let limits = damaged.good(&crate::support::vpd(0xb0), &[]);
    assert_eq!(limits[6..8], [0, 128], "and yet what costs least is told");
    let full = failing(|| ExportError::NoSpace {
        detail: "disk".into(),
    });
    for cdb in [cdb10(0x2a, 0, 0, 1), cdb10(0x41, 0, 0, 1)] {
        full.bad(&cdb, &[1; 512], SenseKey::DataProtect, (0x27, 0x07));
    }
    let broken = failing(|| ExportError::Storage {
        detail: "disk".into(),
    });
    broken.bad(
        &cdb10(0x35, 0, 0, 0),
        &[],
        SenseKey::HardwareError,
        (0x44, 0x00),
    );
    let leaving = failing(|| ExportError::ShuttingDown);
    assert_eq!(
        leaving.send(&cdb10(0x28, 0, 77, 1), &[]).status,
        Status::Busy
    );
}

#[test]
fn what_has_to_wait_says_so_and_does_nothing() {
    let disk = Failing {
        disk: MemoryDisk::new(MIB),
        bad_block: u64::MAX / 512,
        error: || ExportError::Invalid,
    };
    let host = host(&target_with(Arc::new(disk), UnitOptions::default()), "a");
    for cdb in [
        cdb10(0x28, 0, 0, 1),
        cdb10(0x2a, 0, 0, 1),
        cdb10(0x2a, 0x08, 0, 1),
        cdb10(0x35, 0, 0, 0),
        cdb10(0x2f, 0, 0, 1),
    ] {
        let command = Command {
            lun: encode_lun(0),
            cdb: Cdb::new(&cdb),
            data_out: vec![Bytes::from(vec![0; 512])],
            expected_bytes: None,
        };
        assert_eq!(host.nexus.try_execute(&command), None, "{cdb:02x?}");
    }
}
