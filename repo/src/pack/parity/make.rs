//! Making parity over a pack as it is stored.

use reed_solomon_simd::ReedSolomonEncoder;

use super::format::{
    Covered, Layout, ParityOwner, ParityShare, SUMS_PER_PAGE, at_page, encode_sums,
};
use crate::checksum::crc32c;
use crate::disk::{AlignedBuffer, DiskFile};
use crate::error::RepoError;
use crate::pack::format::{PAGE_BYTES, pack_path};

/// Makes the parity file for the first `covered_bytes` of a pack. `go_on` is told of bytes read and may stop the work.
pub(crate) fn make_parity(
    pack: &dyn DiskFile,
    covered_bytes: u64,
    extent: Covered,
    owner: ParityOwner,
    share: ParityShare,
    go_on: &mut dyn FnMut(u64) -> Result<(), RepoError>,
) -> Result<Vec<u8>, RepoError> {
    let layout = Layout::for_pack(covered_bytes, extent, share);
    let mut work = Work::new(layout, owner)?;
    let mut first = 0;
    while first < layout.groups {
        let width = work.stripe.min(layout.groups - first);
        for row in 0..layout.group_data {
            let read = work.read_row(pack, first, width, row)?;
            go_on(read)?;
        }
        for step in 0..width {
            work.encode(first, width, step)?;
        }
        first += width;
    }
    Ok(work.finish())
}

/// Memory of one making. Neighbouring groups are done together, so that a read gets more than a page.
struct Work {
    layout: Layout,
    owner: ParityOwner,
    encoder: ReedSolomonEncoder,
    /// How many groups are done together.
    stripe: u32,
    /// Pages of these groups, row by row.
    rows: AlignedBuffer,
    data_sums: Vec<u32>,
    parity: Vec<u8>,
}

impl Work {
    fn new(layout: Layout, owner: ParityOwner) -> Result<Self, RepoError> {
        let stripe = (STRIPE_PAGES / layout.group_data).clamp(1, layout.groups);
        let encoder = ReedSolomonEncoder::new(
            size(layout.group_data),
            size(layout.group_parity),
            PAGE_BYTES,
        )
        .map_err(|_| RepoError::Refused("a pack cannot be divided into groups for parity"))?;
        Ok(Self {
            layout,
            owner,
            encoder,
            stripe,
            rows: AlignedBuffer::zeroed(size(stripe * layout.group_data) * PAGE_BYTES),
            data_sums: vec![0; size(layout.data_pages())],
            parity: vec![0; size(layout.parity_pages()) * PAGE_BYTES],
        })
    }

    /// Reads page `row` of each of `width` groups from `first` on: they lie one after the other.
    fn read_row(
        &mut self,
        pack: &dyn DiskFile,
        first: u32,
        width: u32,
        row: u32,
    ) -> Result<u64, RepoError> {
        let page = row * self.layout.groups + first;
        let there = self.layout.data_pages().saturating_sub(page).min(width);
        let start = size(row * width) * PAGE_BYTES;
        let target = self
            .rows
            .get_mut(start..start + size(width) * PAGE_BYTES)
            .unwrap_or_default();
        let (target, behind) = target.split_at_mut(size(there) * PAGE_BYTES);
        behind.fill(0);
        if pack.read_at(at_page(page), target)? < target.len() {
            return Err(RepoError::Corrupt {
                what: pack_path(self.owner.number, self.owner.epoch)
                    .display()
                    .to_string(),
                detail: "it is shorter than it was".to_owned(),
            });
        }
        let sums = self.data_sums.iter_mut().skip(size(page));
        for (bytes, sum) in target.chunks_exact(PAGE_BYTES).zip(sums) {
            *sum = crc32c(bytes);
        }
        Ok(target.len() as u64)
    }

    fn encode(&mut self, first: u32, width: u32, step: u32) -> Result<(), RepoError> {
        const BUG: RepoError = RepoError::Refused("parity cannot be made of these pages");
        let pages = self.rows.chunks_exact(PAGE_BYTES);
        let group = pages.skip(size(step)).step_by(size(width));
        for page in group.take(size(self.layout.group_data)) {
            self.encoder.add_original_shard(page).map_err(|_| BUG)?;
        }
        let encoded = self.encoder.encode().map_err(|_| BUG)?;
        for (shard, at) in encoded.recovery_iter().zip(0..) {
            let start = size(self.layout.parity_page(first + step, at)) * PAGE_BYTES;
            if let Some(target) = self.parity.get_mut(start..start + PAGE_BYTES) {
                target.copy_from_slice(shard);
            }
        }
        Ok(())
    }

    fn finish(self) -> Vec<u8> {
        let parity_sums = self.parity.chunks_exact(PAGE_BYTES).map(crc32c);
        let sums: Vec<u32> = self.data_sums.iter().copied().chain(parity_sums).collect();
        let sum_pages: Vec<u8> = sums
            .chunks(size(SUMS_PER_PAGE))
            .zip(0..)
            .flat_map(|(sums, page)| encode_sums(page, sums))
            .collect();
        let header = self.layout.encode(self.owner);
        [&header, &sum_pages, &self.parity, &sum_pages, &header]
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }
}

pub(super) fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Pages in memory at once: 32 MiB.
const STRIPE_PAGES: u32 = 8192;

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::{Caching, Disk as _, SimulatedDisk};
    use crate::pack::parity::file::ParityFile;

    const OWNER: ParityOwner = ParityOwner {
        repository: uuid::Uuid::from_u128(5),
        number: 7,
        epoch: 1,
    };

    /// A file of noise that is the same everywhere.
    fn pack(disk: &SimulatedDisk, pages: usize) -> Arc<dyn DiskFile> {
        let mut bytes = vec![0; pages * PAGE_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let file = disk.create(Path::new("pack"), Caching::Cached).unwrap();
        file.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        file
    }

    fn parity(pack: &dyn DiskFile) -> Vec<u8> {
        let length = pack.length().unwrap();
        let share = ParityShare::default();
        make_parity(pack, length, Covered::Whole, OWNER, share, &mut |_| Ok(())).unwrap()
    }

    #[test]
    fn parity_of_version_1_is_these_very_bytes() {
        let disk = SimulatedDisk::new();
        let bytes = parity(pack(&disk, 2100).as_ref());
        assert_eq!(
            blake3::hash(&bytes).to_hex().as_str(),
            "6af405c3f2b8d84f77380532170bab50458eeb0c4bcf8cf5568680eb190cff2a",
            "a changed code cannot repair packs of the version before"
        );
    }

    #[test]
    fn any_pages_up_to_the_parity_of_a_group_are_made_again() {
        let disk = SimulatedDisk::new();
        let file = pack(&disk, 2100);
        let bytes = parity(file.as_ref());
        let stored = disk.create(Path::new("parity"), Caching::Cached).unwrap();
        stored.write_at(0, &[IoSlice::new(&bytes)]).unwrap();
        let parity = ParityFile::read(stored, OWNER).unwrap();
        assert!(parity.is_whole());
        // Three groups of 700 pages, 16 of parity each.
        let mut whole = vec![0; 2100 * PAGE_BYTES];
        file.read_at(0, &mut whole).unwrap();
        for lost in [1, 15, 16, 17] {
            for step in 0..lost {
                let page = 2 + 3 * step * 40;
                file.write_at(at_page(page), &[IoSlice::new(&[7; 512])])
                    .unwrap();
            }
            match parity.rebuild(file.as_ref(), 2) {
                Ok(pages) => {
                    assert_eq!(pages.len(), usize::try_from(lost).unwrap());
                    for (page, bytes) in pages {
                        let start = size(page) * PAGE_BYTES;
                        assert!(bytes == whole[start..start + PAGE_BYTES]);
                    }
                }
                Err(_) => assert_eq!(lost, 17),
            }
        }
    }
}
