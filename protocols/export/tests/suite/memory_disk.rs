use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport, Durability, MemoryDisk, contract};

fn filled(content: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new(content.len() as u64);
    disk.write(0, &[Bytes::copy_from_slice(content)], Durability::Unstable)
        .expect("a write in RAM succeeds");
    disk
}

#[test]
fn a_new_disk_keeps_the_contract() {
    contract::block::check(|size_bytes| Arc::new(MemoryDisk::new(size_bytes)));
}

#[test]
fn large_blocks_keep_the_contract() {
    contract::block::check(|size_bytes| Arc::new(MemoryDisk::with_block_size(size_bytes, 4096)));
}

#[test]
fn a_filled_disk_keeps_the_contract() {
    contract::block::check_over(|content| Arc::new(filled(content)));
}

#[test]
fn a_read_only_disk_keeps_the_contract() {
    let mut content = vec![0; 512 * 1024];
    content[70_000..200_000].fill(3);
    contract::block::check_read_only(&filled(&content).into_read_only(), &content);
}

/// Shifts every read by one block: the contract must notice.
struct Wrong(MemoryDisk);

impl BlockExport for Wrong {
    fn properties(&self) -> export::BlockProperties {
        self.0.properties()
    }
    fn read(&self, offset: u64, length: u32) -> Result<export::Segments, export::ExportError> {
        self.0.properties().check(offset, u64::from(length))?;
        self.0.read(offset.saturating_sub(512), length)
    }
    fn write(
        &self,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<(), export::ExportError> {
        self.0.write(offset, data, durability)
    }
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        mode: export::ZeroMode,
        durability: Durability,
    ) -> Result<(), export::ExportError> {
        self.0.write_zeroes(offset, length, mode, durability)
    }
    fn discard(
        &self,
        offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<(), export::ExportError> {
        self.0.discard(offset, length, durability)
    }
    fn flush(&self) -> Result<(), export::ExportError> {
        self.0.flush()
    }
    fn extents(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<export::Extent>, export::ExportError> {
        self.0.extents(offset, length, limit)
    }
}

#[test]
#[should_panic(expected = "are right")]
fn a_wrong_disk_is_noticed() {
    contract::block::check(|size_bytes| Arc::new(Wrong(MemoryDisk::new(size_bytes))));
}
