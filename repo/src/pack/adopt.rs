//! Packs found when a repository is opened: sealed if a crash left them open, and known to the index.

use std::collections::HashSet;
use std::io::IoSlice;
use std::sync::Arc;

use uuid::Uuid;

use super::format::{
    PACK_BYTES_MAX, PACK_VERSION, PAGE_BYTES, PackHeader, Place, RecordKind, pack_path,
};
use super::parity::{PackView, ParityFile, ParityOwner, Rebuild, mend_pages};
use super::scan::scan_records;
use super::set::PackSummary;
use super::table::{Ending, PackTable, TableOrigin, read_ending};
use super::window::Fetch;
use crate::chunk::ChunkId;
use crate::disk::{Access, AlignedBuffer, Caching, Disk, DiskFile};
use crate::error::RepoError;
use crate::index::{Coverage, IndexStore};

/// A pack file and what its header should say, but for the class.
pub(super) struct FoundPack {
    pub(super) number: u32,
    pub(super) epoch: u32,
    pub(super) length_bytes: u64,
    pub(super) header: PackHeader,
    pub(super) has_parity: bool,
}

/// A pack that has its table.
struct SealedPack {
    table: PackTable,
    recovered: bool,
    length_bytes: u64,
    /// The table was made just now.
    now: bool,
}

impl FoundPack {
    /// Makes sure that the pack is sealed and that the index knows its records. One that cannot be read is kept in
    /// the set, so that reads of it say what is wrong, but no new backup relies on it.
    pub(super) fn adopt(
        &self,
        disk: &dyn Disk,
        index: &dyn IndexStore,
    ) -> Result<PackSummary, RepoError> {
        let summary = |recovered, length_bytes| PackSummary {
            epoch: self.epoch,
            length_bytes,
            recovered,
            sealed: true,
            has_parity: self.has_parity,
        };
        if let Some(coverage) = index.coverage(self.number)? {
            return Ok(summary(coverage.recovered, self.length_bytes));
        }
        match self.seal(disk) {
            Ok(sealed) => {
                self.teach(index, &sealed.table, sealed.recovered)?;
                Ok(PackSummary {
                    // Parity does not know the table that was made just now.
                    has_parity: self.has_parity && !sealed.now,
                    ..summary(sealed.recovered, sealed.length_bytes)
                })
            }
            Err(error @ RepoError::Index { .. }) => Err(error),
            Err(error) => {
                if error.is_full() {
                    self.list_unsealed(disk, index)?;
                }
                tracing::error!(pack = self.describe(), %error, "a pack cannot be used");
                Ok(PackSummary {
                    sealed: false,
                    ..summary(true, self.length_bytes)
                })
            }
        }
    }

    /// Tells the index what is in a pack that there was no room to seal: maps may have an older place of it, and what
    /// they need must be found on a full disk, too. The next opening tries to seal it again.
    fn list_unsealed(&self, disk: &dyn Disk, index: &dyn IndexStore) -> Result<(), RepoError> {
        let path = pack_path(self.number, self.epoch);
        let listed = disk
            .open(&path, Access::Read, Caching::Direct)
            .map_err(RepoError::from)
            .and_then(|file| self.scan_table(file.as_ref(), file.length()?));
        match listed {
            Ok(table) => self.list(index, &table),
            Err(error) => {
                tracing::warn!(pack = self.describe(), %error, "a pack cannot be scanned");
                Ok(())
            }
        }
    }

    /// The pack's table, made and written if there is none.
    fn seal(&self, disk: &dyn Disk) -> Result<SealedPack, RepoError> {
        // Those that are sealed may be such that nobody can open them for writing.
        let path = pack_path(self.number, self.epoch);
        let file = disk.open(&path, Access::Read, Caching::Direct)?;
        // What is found must be on the storage: the process that wrote it may have come to its end before its sync, or
        // that failed and has left a page cache that shows more than is there.
        file.sync()?;
        file.forget_cached();
        if self.has_parity && !matches!(read_ending(file.as_ref()), Ok(Ending::Sealed { .. })) {
            self.mend(disk, &file)?;
        }
        let sealed = |table, recovered, now| {
            Ok(SealedPack {
                table,
                recovered,
                length_bytes: file.length()?,
                now,
            })
        };
        let records_end = match read_ending(file.as_ref())? {
            Ending::Sealed { table, origin, .. } => {
                self.check_header(file.as_ref())?;
                return sealed(table, origin == TableOrigin::Recovery, false);
            }
            Ending::Open => file.length()?,
            Ending::Damaged { table_offset } => table_offset,
        };
        let table = match disk.open(&path, Access::ReadWrite, Caching::Direct) {
            Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::warn!(pack = self.describe(), %error, "a protected pack without a sound table is read without one");
                self.scan_table(file.as_ref(), records_end)?
            }
            opened => self.recover(opened?.as_ref(), records_end)?,
        };
        sealed(table, true, true)
    }

    /// Before a pack is taken for one that a crash left open: parity may know that it was sealed, or have what its
    /// start was.
    fn mend(&self, disk: &dyn Disk, file: &Arc<dyn DiskFile>) -> Result<(), RepoError> {
        let owner = ParityOwner {
            repository: Uuid::from_bytes(self.header.repository),
            number: self.number,
            epoch: self.epoch,
        };
        let parity = match ParityFile::open(disk, owner) {
            Ok(parity) => Arc::new(parity),
            Err(error) => {
                tracing::info!(
                    pack = self.describe(),
                    ?error,
                    "a pack has no parity to use"
                );
                return Ok(());
            }
        };
        let view = PackView::new(Arc::clone(file), Some(parity), Rebuild::Yes);
        let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
        let length = view.length()?;
        for offset in (0..length).step_by(PAGE_BYTES) {
            view.read_at(offset, &mut page)?;
        }
        let rebuilt = view.rebuilt_pages();
        if !rebuilt.is_empty() {
            let before = self.proven(file.as_ref())?;
            if !self.proven(&view)?.is_superset(&before) {
                tracing::warn!(
                    pack = self.describe(),
                    "parity was made of another pack of this name and is not used"
                );
                return Ok(());
            }
            let path = pack_path(self.number, self.epoch);
            let writable = disk.open(&path, Access::ReadWrite, Caching::Direct);
            match writable.and_then(|file| mend_pages(file.as_ref(), &rebuilt, view.whole_length()))
            {
                Ok(pages) => tracing::warn!(
                    pack = self.describe(),
                    pages,
                    "mended a damaged pack from its parity"
                ),
                Err(error) => tracing::warn!(
                    pack = self.describe(),
                    %error,
                    "a damaged pack cannot be mended where it is"
                ),
            }
        }
        Ok(())
    }

    /// Slots and names of all records that prove themselves.
    fn proven(&self, file: &dyn DiskFile) -> Result<HashSet<(u32, ChunkId)>, RepoError> {
        let mut proven = HashSet::new();
        let end = file.length()?;
        let start = PAGE_BYTES as u64;
        scan_records(
            file,
            self.number,
            start,
            end,
            Fetch::InTurn,
            &mut |record| {
                if record.header.kind != RecordKind::Padding {
                    proven.insert((record.place.slot, record.header.id));
                }
                Ok(())
            },
        )?;
        Ok(proven)
    }

    /// Seals a pack that has no sound table with what a scan finds before `records_end`.
    fn recover(&self, file: &dyn DiskFile, records_end: u64) -> Result<PackTable, RepoError> {
        let length_bytes = file.length()?;
        if length_bytes > PACK_BYTES_MAX * 2 - PAGE_BYTES as u64 {
            return Err(self.corrupt(format!(
                "{length_bytes} bytes are more than a pack may have"
            )));
        }
        let table = self.scan_table(file, records_end)?;
        if let Err(error) = self.check_header(file) {
            // The crash took it, or it was never written. What was acknowledged had a durable header.
            if matches!(error, RepoError::TooNew { .. }) {
                return Err(error);
            }
            write_page_aligned(file, 0, &self.header.clone().encode())?;
        }
        let end = file.length()?.next_multiple_of(PAGE_BYTES as u64);
        file.sync()?;
        write_page_aligned(file, end, &table.encode(end, TableOrigin::Recovery))?;
        file.sync()?;
        tracing::info!(
            pack = self.describe(),
            records = table.len(),
            "sealed a pack that was left open"
        );
        Ok(table)
    }

    /// What a table of the records before `end` would say.
    fn scan_table(&self, file: &dyn DiskFile, end: u64) -> Result<PackTable, RepoError> {
        let mut table = PackTable::default();
        let strange_bytes = scan_records(
            file,
            self.number,
            PAGE_BYTES as u64,
            end,
            Fetch::InTurn,
            &mut |record| {
                if record.header.kind != RecordKind::Padding {
                    table.push(record.place, &record.header);
                }
                Ok(())
            },
        )?;
        if strange_bytes > 0 {
            tracing::info!(
                pack = self.describe(),
                strange_bytes,
                "bytes that are no records were stepped over"
            );
        }
        Ok(table)
    }

    /// Tells the index of all records, and then that it knows them.
    fn teach(
        &self,
        index: &dyn IndexStore,
        table: &PackTable,
        recovered: bool,
    ) -> Result<(), RepoError> {
        self.list(index, table)?;
        tracing::info!(
            pack = self.describe(),
            records = table.len(),
            recovered,
            "indexed a pack"
        );
        index.set_coverage(self.number, Coverage { recovered })
    }

    fn list(&self, index: &dyn IndexStore, table: &PackTable) -> Result<(), RepoError> {
        let place = |slot| Place {
            pack: self.number,
            slot,
        };
        let named = table.iter().filter(|(id, _)| !id.is_zero());
        let entries: Vec<_> = named.map(|(id, slot)| (id, place(slot))).collect();
        for batch in entries.chunks(INDEX_BATCH) {
            index.insert(batch)?;
        }
        Ok(())
    }

    /// Whether the first page is that of this very pack.
    fn check_header(&self, file: &dyn DiskFile) -> Result<(), RepoError> {
        let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
        let got = file.read_at(0, &mut page)?;
        let header = PackHeader::decode(page.get(..got).unwrap_or_default());
        let header = header.map_err(|detail| self.corrupt(detail.to_owned()))?;
        if header.version.get() > PACK_VERSION {
            let found = header.version.get();
            return Err(RepoError::TooNew {
                what: self.describe(),
                found,
                known: PACK_VERSION,
            });
        }
        if header.repository != self.header.repository || header.number != self.header.number {
            return Err(self.corrupt("its header is that of another pack or repository".to_owned()));
        }
        if header.encryption != self.header.encryption {
            return Err(self.corrupt(
                "it is encrypted in another way than this repository is, or only one of the two is"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn corrupt(&self, detail: String) -> RepoError {
        RepoError::Corrupt {
            what: self.describe(),
            detail,
        }
    }

    fn describe(&self) -> String {
        pack_path(self.number, self.epoch).display().to_string()
    }
}

/// Writes whole pages from aligned memory.
pub(super) fn write_page_aligned(
    file: &dyn DiskFile,
    offset: u64,
    bytes: &[u8],
) -> Result<(), RepoError> {
    let mut buffer = AlignedBuffer::zeroed(bytes.len());
    buffer.copy_from_slice(bytes);
    Ok(file.write_at(offset, &[IoSlice::new(&buffer)])?)
}

/// Entries given to the index at once.
const INDEX_BATCH: usize = 4096;
