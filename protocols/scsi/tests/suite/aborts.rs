//! Long commands that are aborted between two of their pieces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use export::{
    BlockExport, BlockProperties, Durability, ExportError, Extent, MemoryDisk, Segments, ZeroMode,
};
use scsi::{Cdb, Command, Status, UnitOptions, encode_lun};

use crate::support::{Host, MIB, cdb10, cdb12, cdb16, host, target_with, vpd};

/// A disk that aborts the command which calls it, in the call with a number, and counts what comes.
struct Aborting {
    disk: MemoryDisk,
    calls: AtomicUsize,
    abort_in: usize,
    aborted: AtomicBool,
}

impl Aborting {
    fn called(&self) {
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 == self.abort_in {
            self.aborted.store(true, Ordering::Relaxed);
        }
    }
}

impl BlockExport for Aborting {
    fn properties(&self) -> BlockProperties {
        self.disk.properties()
    }
    fn read(&self, offset: u64, length: u32) -> Result<Segments, ExportError> {
        self.called();
        self.disk.read(offset, length)
    }
    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.called();
        self.disk.write(offset, data, durability)
    }
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: ZeroMode,
        durability: Durability,
    ) -> Result<(), ExportError> {
        self.called();
        self.disk.write_zeroes(offset, length, mode, durability)
    }
    fn discard(&self, offset: u64, length: u64, durability: Durability) -> Result<(), ExportError> {
        self.called();
        self.disk.discard(offset, length, durability)
    }
    fn flush(&self) -> Result<(), ExportError> {
        self.disk.flush()
    }
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, ExportError> {
        self.disk.extents(offset, length, limit)
    }
}

/// Runs a command that is aborted in the call `abort_in` of its disk: it makes no further one.
fn check(abort_in: usize, cdb: &[u8], data: impl Fn(&Host) -> Vec<u8>) -> Host {
    let disk = Arc::new(Aborting {
        disk: MemoryDisk::new(64 * MIB),
        calls: AtomicUsize::new(0),
        abort_in,
        aborted: AtomicBool::new(false),
    });
    let target = target_with(Arc::clone(&disk) as Arc<_>, UnitOptions::default());
    let host = host(&target, "a");
    let data = data(&host);
    let command = Command {
        lun: encode_lun(0),
        cdb: Cdb::new(cdb),
        expected_bytes: Some(data.len() as u32),
        data_out: vec![Bytes::from(data)],
    };
    let response = host.nexus.execute_unless(&command, &disk.aborted);
    assert_eq!(response.status, Status::TaskAborted, "{cdb:02x?}");
    assert_eq!(disk.calls.load(Ordering::Relaxed), abort_in, "{cdb:02x?}");
    host
}

#[test]
fn nothing_is_begun_after_an_abort() {
    check(3, &cdb10(0x41, 0, 0, 65_535), |_| vec![1; 512]);
    check(2, &cdb12(0xaf, 0, 0, 32_768), |_| Vec::new());
    check(9, &cdb10(0x2f, 0x06, 0, 100), |_| vec![0; 512]);
    check(2, &cdb10(0x42, 0, 0, 8 + 3 * 16), |_| {
        let mut list = vec![0, 54, 0, 48, 0, 0, 0, 0];
        for lba in [0, 10, 20] {
            list.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 8, 0, 0, 0, 0]);
        }
        list
    });
    // A read and a write for each piece.
    let list_bytes = 16 + 32 + 28;
    let host = check(4, &cdb16(0x83, 0, 0, list_bytes), |host| {
        let page = host.good(&vpd(0x83), &[]);
        let mut list = vec![1, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
        list.extend_from_slice(&[0xe4, 0, 0, 0]);
        list.extend_from_slice(&page[4..24]);
        list.extend_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0]);
        list.extend_from_slice(&[2, 0, 0, 0x18, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        list.extend_from_slice(&[0; 8]);
        list.extend_from_slice(&65_536_u64.to_be_bytes());
        list
    });
    // Whoever asks how it ended is not told that it was done: COPY STATUS of identifier 1.
    let mut ask = cdb16(0x84, 0, 0, 12);
    ask[2] = 1;
    assert_eq!(host.good(&ask, &[])[4], 0x02);
}
