//! Reading a parity file, and rebuilding pages with it.

use std::fmt;
use std::sync::Arc;

use reed_solomon_simd::ReedSolomonDecoder;

use super::format::{Copy, Covered, Layout, ParityOwner, at_page, decode_sums, parity_path};
use super::make::size;
use crate::checksum::crc32c;
use crate::disk::{Access, AlignedBuffer, Caching, Disk, DiskFile};
use crate::pack::format::PAGE_BYTES;
use crate::pack::table::{Ending, read_ending};

/// The parity of one pack.
pub(crate) struct ParityFile {
    file: Arc<dyn DiskFile>,
    owner: ParityOwner,
    layout: Layout,
    /// Sums of all data and then all parity pages; what neither copy has is not known.
    sums: Vec<Option<u32>>,
    flawed: bool,
}

/// Why there is no parity to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoParity {
    /// There is no such file.
    Missing,
    /// There is one that cannot be used.
    Unusable(String),
}

/// A group has lost more pages than it has sound parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuchLost;

impl ParityFile {
    /// Opens the parity of a pack.
    pub(crate) fn open(disk: &dyn Disk, owner: ParityOwner) -> Result<Self, NoParity> {
        let path = parity_path(owner.number, owner.epoch);
        let file = match disk.open(&path, Access::Read, Caching::Direct) {
            Err(error) if error.is_missing() => return Err(NoParity::Missing),
            Err(error) => return Err(NoParity::Unusable(error.to_string())),
            Ok(file) => file,
        };
        Self::read(file, owner).map_err(|detail| NoParity::Unusable(detail.to_owned()))
    }

    /// Takes a file as `owner`'s parity. The header may come from either end.
    pub(super) fn read(file: Arc<dyn DiskFile>, owner: ParityOwner) -> Result<Self, &'static str> {
        let length = file.length().map_err(|_| "its length cannot be told")?;
        let last = (length / PAGE_BYTES as u64).saturating_sub(1) * PAGE_BYTES as u64;
        let header = |offset| {
            let page = read_page(file.as_ref(), offset).ok_or("its header cannot be read")?;
            Layout::decode(&page, owner)
        };
        let (first, second) = (header(0), header(last));
        let agree = first.is_ok() && first == second;
        let layout = first.or_else(|error| second.map_err(|_| error))?;
        let mut parity = Self {
            flawed: !agree || length != layout.file_bytes(),
            sums: Vec::new(),
            file,
            owner,
            layout,
        };
        parity.read_sums();
        Ok(parity)
    }

    fn read_sums(&mut self) {
        let count = size(self.layout.data_pages() + self.layout.parity_pages());
        for page in 0..self.layout.sum_pages() {
            let copy = |copy| {
                let bytes = read_page(self.file.as_ref(), self.layout.sums_offset(page, copy))?;
                decode_sums(page, &bytes)
            };
            let (first, second) = (copy(Copy::First), copy(Copy::Second));
            self.flawed |= first.is_none() || first != second;
            match first.or(second) {
                Some(sums) => self.sums.extend(sums.into_iter().map(Some)),
                None => self.sums.extend(std::iter::repeat_n(
                    None,
                    size(super::format::SUMS_PER_PAGE),
                )),
            }
        }
        self.sums.truncate(count);
    }

    /// Bytes of the pack that are covered, from its start.
    pub(crate) fn covered_bytes(&self) -> u64 {
        self.layout.covered_bytes
    }

    /// Whether all of a sealed pack is covered.
    pub(crate) fn covers(&self) -> Covered {
        self.layout.extent
    }

    /// Whether it may be this pack's. A pack that ends with its table is as long as it must be: parity that says something else
    /// was made of another one of the same name, in a copy of the repository that went its own way.
    pub(super) fn may_be_of(&self, pack: &dyn DiskFile) -> bool {
        let covered = self.covered_bytes();
        let fits = pack.length().is_ok_and(|length| match self.covers() {
            Covered::Whole => length == covered,
            Covered::Start => length >= covered,
        });
        fits || !matches!(read_ending(pack), Ok(Ending::Sealed { .. }))
    }

    /// Pages of the pack that are covered.
    pub(super) fn data_pages(&self) -> u32 {
        self.layout.data_pages()
    }

    /// Whether `bytes` are page `page` of the pack as it was. An unknown sum says no: the group can give the page.
    pub(super) fn is_page(&self, page: u32, bytes: &[u8]) -> bool {
        self.sum(page) == Some(crc32c(bytes))
    }

    /// Reads the whole file: is all of it sound?
    pub(crate) fn is_whole(&self) -> bool {
        !self.flawed && (0..self.layout.parity_pages()).all(|page| self.parity_page(page).is_some())
    }

    /// The group that a page of the pack belongs to.
    pub(super) fn group_of(&self, page: u32) -> u32 {
        page % self.layout.groups
    }

    /// Makes the pages of a group again that `pack` has lost. Gives their numbers and bytes.
    pub(super) fn rebuild(
        &self,
        pack: &dyn DiskFile,
        group: u32,
    ) -> Result<Vec<(u32, Vec<u8>)>, TooMuchLost> {
        let Layout {
            groups,
            group_data,
            group_parity,
            ..
        } = self.layout;
        let mut decoder = ReedSolomonDecoder::new(size(group_data), size(group_parity), PAGE_BYTES)
            .map_err(|_| TooMuchLost)?;
        let mut lost = Vec::new();
        for row in 0..group_data {
            let page = row * groups + group;
            let bytes = match page < self.data_pages() {
                true => read_page(pack, at_page(page)).filter(|bytes| self.is_page(page, bytes)),
                false => Some(AlignedBuffer::zeroed(PAGE_BYTES)),
            };
            match bytes {
                Some(bytes) => decoder
                    .add_original_shard(size(row), &bytes[..])
                    .map_err(|_| TooMuchLost)?,
                None => lost.push(row),
            }
            if lost.len() > size(group_parity) {
                return Err(TooMuchLost);
            }
        }
        let mut wanted = lost.len();
        for at in 0..group_parity {
            if wanted == 0 {
                break;
            }
            if let Some(bytes) = self.parity_page(self.layout.parity_page(group, at)) {
                decoder
                    .add_recovery_shard(size(at), &bytes[..])
                    .map_err(|_| TooMuchLost)?;
                wanted -= 1;
            }
        }
        let decoded = decoder.decode().map_err(|_| TooMuchLost)?;
        let rebuilt = lost.iter().map(|row| {
            let page = row * groups + group;
            let bytes = decoded.restored_original(size(*row)).ok_or(TooMuchLost)?;
            match self.sum(page) {
                Some(sum) if sum != crc32c(bytes) => Err(TooMuchLost),
                _ => Ok((page, bytes.to_vec())),
            }
        });
        rebuilt.collect()
    }

    fn sum(&self, page: u32) -> Option<u32> {
        self.sums.get(size(page)).copied().flatten()
    }

    fn parity_page(&self, page: u32) -> Option<AlignedBuffer> {
        let sum = self.sum(self.data_pages() + page)?;
        read_page(self.file.as_ref(), self.layout.parity_offset(page))
            .filter(|bytes| crc32c(bytes) == sum)
    }
}

impl fmt::Debug for ParityFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ParityFile")
            .field("owner", &self.owner)
            .field("layout", &self.layout)
            .field("flawed", &self.flawed)
            .finish_non_exhaustive()
    }
}

/// A whole page, if it can be read.
pub(super) fn read_page(file: &dyn DiskFile, offset: u64) -> Option<AlignedBuffer> {
    let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
    match file.read_at(offset, &mut page) {
        Ok(PAGE_BYTES) => Some(page),
        _ => None,
    }
}

/// Feeds `bytes` to the reader of parity files, as the parity of a pack of noise. Whatever they are, nothing panics
/// and nothing large is allocated.
#[doc(hidden)]
pub fn fuzz_parity(bytes: &[u8]) {
    use crate::disk::SimulatedDisk;
    use std::io::IoSlice;
    use std::path::Path;

    let owner = ParityOwner {
        repository: uuid::Uuid::nil(),
        number: 1,
        epoch: 1,
    };
    let disk = SimulatedDisk::new();
    let make = |name: &str, bytes: &[u8]| {
        let file = disk
            .create(Path::new(name), Caching::Cached)
            .expect("the name is free");
        file.write_at(0, &[IoSlice::new(bytes)])
            .expect("the disk has room");
        file
    };
    let pack = make("pack", &[0xA5; 3 * PAGE_BYTES]);
    // As they are, and behind a header that says what they say with a right checksum.
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map_or(0, u32::from_le_bytes)
    };
    let forged = Layout {
        covered_bytes: u64::from(word(0)),
        extent: Covered::Whole,
        groups: word(4),
        group_data: word(8),
        group_parity: word(12),
    };
    let behind = bytes.get(16..).unwrap_or_default();
    let forged = [forged.encode(owner).as_slice(), behind].concat();
    for (name, bytes) in [("parity", bytes), ("forged", &forged)] {
        if let Ok(parity) = ParityFile::read(make(name, bytes), owner) {
            assert!(parity.covered_bytes() > 0);
            let whole = parity.is_whole();
            let rebuilt = parity.rebuild(pack.as_ref(), 0);
            assert!(!whole || rebuilt.is_err() || parity.data_pages() > 0);
        }
    }
}
