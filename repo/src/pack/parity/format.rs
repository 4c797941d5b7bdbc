//! The fixed layouts of `docs/formats/parity.md`.

use std::mem::size_of;
use std::path::PathBuf;

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::crc32c;
use crate::pack::format::{PACK_BYTES_MAX, PAGE_BYTES, pack_path, parse_pack_name};

/// How much parity a pack gets, in thousandths of its length. None at all is a choice, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityShare {
    permille: u32,
}

impl ParityShare {
    /// No parity: what is damaged is lost unless another backup brings it again.
    pub const NONE: Self = Self { permille: 0 };

    /// A share in thousandths, up to 500; more is cut to that.
    pub const fn permille(permille: u32) -> Self {
        let permille = if permille > 500 { 500 } else { permille };
        Self { permille }
    }

    /// The share in thousandths.
    pub const fn as_permille(self) -> u32 {
        self.permille
    }

    /// Whether packs get none.
    pub const fn is_none(self) -> bool {
        self.permille == 0
    }
}

impl Default for ParityShare {
    /// Two in a hundred.
    fn default() -> Self {
        Self::permille(20)
    }
}

/// Whose parity a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParityOwner {
    pub(crate) repository: Uuid,
    pub(crate) number: u32,
    pub(crate) epoch: u32,
}

/// How much of a pack its parity covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covered {
    /// A sealed pack, table and all.
    Whole,
    /// What was durable of a pack that is still open.
    Start,
}

/// First and last page of a parity file.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ParityHeader {
    magic: [u8; 8],
    version: U32,
    number: U32,
    epoch: U32,
    shard_bytes: U32,
    repository: [u8; 16],
    covered_bytes: U64,
    groups: U32,
    group_data: U32,
    group_parity: U32,
    flags: U32,
    reserved: [u8; 12],
    checksum: U32,
}

const _: () = assert!(size_of::<ParityHeader>() == 80);

/// How a pack is divided: which page is in which group, and where things lie in the parity file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of the pack that are covered, from its start; whole pages.
    pub(super) covered_bytes: u64,
    /// Whether that is the whole of a sealed pack, or the start of one that may have grown since.
    pub(super) extent: Covered,
    /// Groups, each coded for itself. Page `p` belongs to group `p % groups`.
    pub(super) groups: u32,
    /// Pages of the pack in each group; those behind the covered bytes count as zero.
    pub(super) group_data: u32,
    /// Parity pages of each group.
    pub(super) group_parity: u32,
}

impl Layout {
    /// The division that new parity gets.
    pub(super) fn for_pack(covered_bytes: u64, extent: Covered, share: ParityShare) -> Self {
        let pages = page_count(covered_bytes).max(1);
        let groups = pages.div_ceil(GROUP_DATA_TARGET);
        let group_data = pages.div_ceil(groups);
        let wanted = (u64::from(group_data) * u64::from(share.permille)).div_ceil(1000);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        Self {
            covered_bytes,
            extent,
            groups,
            group_data,
            group_parity: wanted.max(GROUP_PARITY_MIN).min(group_data),
        }
    }

    /// Whether this can be the division of a pack, so that nothing large is made for a lie.
    fn is_possible(&self) -> bool {
        let pages = page_count(self.covered_bytes);
        let (groups, data) = (u64::from(self.groups), u64::from(self.group_data));
        self.covered_bytes > 0
            && self.covered_bytes.is_multiple_of(PAGE_BYTES as u64)
            && self.covered_bytes <= PACK_BYTES_MAX * 2
            && self.groups > 0
            && self.group_data <= GROUP_DATA_MAX
            && (1..=self.group_data).contains(&self.group_parity)
            && groups * data >= u64::from(pages)
            && groups * (data.saturating_sub(1)) < u64::from(pages)
    }

    /// Pages of the pack that are covered.
    pub(super) fn data_pages(&self) -> u32 {
        page_count(self.covered_bytes)
    }

    /// Parity pages of all groups.
    pub(super) fn parity_pages(&self) -> u32 {
        self.groups * self.group_parity
    }

    /// Where page `at` of a group's parity is among all parity pages. Neighbours belong to different groups.
    pub(super) fn parity_page(&self, group: u32, at: u32) -> u32 {
        at * self.groups + group
    }

    /// Pages that hold the sums of all data and parity pages.
    pub(super) fn sum_pages(&self) -> u32 {
        (self.data_pages() + self.parity_pages()).div_ceil(SUMS_PER_PAGE)
    }

    /// Where in the file page `page` of the sums lies: in the first copy or the second.
    pub(super) fn sums_offset(&self, page: u32, copy: Copy) -> u64 {
        let behind = match copy {
            Copy::First => 0,
            Copy::Second => self.sum_pages() + self.parity_pages(),
        };
        at_page(1 + behind + page)
    }

    /// Where in the file parity page `page` lies.
    pub(super) fn parity_offset(&self, page: u32) -> u64 {
        at_page(1 + self.sum_pages() + page)
    }

    /// Length of the whole file.
    pub(super) fn file_bytes(&self) -> u64 {
        at_page(2 + 2 * self.sum_pages() + self.parity_pages())
    }

    /// Header page of a file.
    pub(super) fn encode(&self, owner: ParityOwner) -> Vec<u8> {
        let mut header = ParityHeader {
            magic: PARITY_MAGIC,
            version: U32::new(PARITY_VERSION),
            number: U32::new(owner.number),
            epoch: U32::new(owner.epoch),
            shard_bytes: U32::new(PAGE_BYTES_U32),
            repository: *owner.repository.as_bytes(),
            covered_bytes: U64::new(self.covered_bytes),
            groups: U32::new(self.groups),
            group_data: U32::new(self.group_data),
            group_parity: U32::new(self.group_parity),
            flags: U32::new(match self.extent {
                Covered::Whole => FLAG_WHOLE,
                Covered::Start => 0,
            }),
            reserved: [0; 12],
            checksum: U32::ZERO,
        };
        header.checksum = U32::new(crc32c(header.as_bytes()));
        let mut page = header.as_bytes().to_vec();
        page.resize(PAGE_BYTES, 0);
        page
    }

    /// Reads a header page that must be of `owner`'s parity, or says why it is not.
    pub(super) fn decode(page: &[u8], owner: ParityOwner) -> Result<Self, &'static str> {
        let (header, _) =
            ParityHeader::read_from_prefix(page).map_err(|_| "the header is cut off")?;
        let mut plain = header.clone();
        plain.checksum = U32::ZERO;
        if header.magic != PARITY_MAGIC {
            return Err("the header has no parity magic");
        }
        if crc32c(plain.as_bytes()) != header.checksum.get() {
            return Err("the header's checksum is wrong");
        }
        if header.version.get() != PARITY_VERSION || header.shard_bytes.get() != PAGE_BYTES_U32 {
            return Err("it is of another version");
        }
        if header.number.get() != owner.number
            || header.epoch.get() != owner.epoch
            || header.repository != *owner.repository.as_bytes()
        {
            return Err("it belongs to another pack");
        }
        let layout = Self {
            covered_bytes: header.covered_bytes.get(),
            extent: match header.flags.get() & FLAG_WHOLE {
                0 => Covered::Start,
                _ => Covered::Whole,
            },
            groups: header.groups.get(),
            group_data: header.group_data.get(),
            group_parity: header.group_parity.get(),
        };
        match layout.is_possible() {
            true => Ok(layout),
            false => Err("the header's numbers cannot be true of a pack"),
        }
    }
}

/// Which of the two copies of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    First,
    Second,
}

/// One page of sums: number `page`, for the pages from `page * SUMS_PER_PAGE` on.
pub(super) fn encode_sums(page: u32, sums: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    bytes.resize(PAGE_BYTES - 8, 0);
    bytes.extend_from_slice(&page.to_le_bytes());
    let checksum = crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The sums of a page, if it is sound and number `page`.
pub(super) fn decode_sums(page: u32, bytes: &[u8]) -> Option<Vec<u32>> {
    let (rest, checksum) = bytes.split_last_chunk::<4>()?;
    let (sums, number) = rest.split_last_chunk::<4>()?;
    let sound = bytes.len() == PAGE_BYTES
        && u32::from_le_bytes(*checksum) == crc32c(rest)
        && u32::from_le_bytes(*number) == page;
    let words = sums.chunks_exact(4).filter_map(|word| word.try_into().ok());
    sound.then(|| words.map(u32::from_le_bytes).collect())
}

/// The file beside a pack.
pub(crate) fn parity_path(number: u32, epoch: u32) -> PathBuf {
    let mut path = pack_path(number, epoch).into_os_string();
    path.push(PARITY_SUFFIX);
    PathBuf::from(path)
}

/// All files of a pack: itself, and its parity, which may be missing. Whoever removes a pack removes them in this
/// order; parity that is left alone is removed when the repository is next opened.
pub(crate) fn pack_files(number: u32, epoch: u32) -> [PathBuf; 2] {
    [pack_path(number, epoch), parity_path(number, epoch)]
}

/// Number and epoch of the pack whose parity a file of this name is.
pub(crate) fn parse_parity_name(name: &str) -> Option<(u32, u32)> {
    parse_pack_name(name.strip_suffix(PARITY_SUFFIX)?)
}

pub(super) fn page_count(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE_BYTES as u64)).unwrap_or(u32::MAX)
}

pub(super) fn at_page(page: u32) -> u64 {
    u64::from(page) * PAGE_BYTES as u64
}

const PARITY_MAGIC: [u8; 8] = *b"HFPARTY\n";
const PARITY_VERSION: u32 = 1;
const PARITY_SUFFIX: &str = ".parity";
const PAGE_BYTES_U32: u32 = 4096;
const _: () = assert!(PAGE_BYTES == 4096);

/// Flag of the header: the pack was sealed and is covered whole.
const FLAG_WHOLE: u32 = 1;

/// Sums in one page of them.
pub(super) const SUMS_PER_PAGE: u32 = 1022;

/// Pages of a pack in one group: enough that scattered damage evens out, few enough that one group is read quickly.
const GROUP_DATA_TARGET: u32 = 1024;

/// What a reader takes.
const GROUP_DATA_MAX: u32 = 16_384;

/// Small packs get more than their share, so that 64 KiB anywhere can be lost.
const GROUP_PARITY_MIN: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: ParityOwner = ParityOwner {
        repository: Uuid::from_u128(7),
        number: 0x1234,
        epoch: 1,
    };

    #[test]
    fn every_page_is_in_one_group_and_every_division_is_possible() {
        for pages in [1, 2, 15, 16, 17, 1023, 1024, 1025, 5000, 65_536, 131_072] {
            for permille in [1, 20, 100, 500] {
                let layout = Layout::for_pack(
                    at_page(pages),
                    Covered::Whole,
                    ParityShare::permille(permille),
                );
                assert!(layout.is_possible(), "{layout:?}");
                let share = u64::from(layout.parity_pages()) * 1000;
                assert!(
                    share >= u64::from(pages) * u64::from(permille).min(1000),
                    "{layout:?}"
                );
                let back = Layout::decode(&layout.encode(OWNER), OWNER).unwrap();
                assert_eq!(back, layout);
            }
        }
        let pack = Layout::for_pack(256 << 20, Covered::Start, ParityShare::default());
        assert_eq!(
            (pack.groups, pack.group_data, pack.group_parity),
            (64, 1024, 21)
        );
    }

    #[test]
    fn a_flipped_bit_or_another_owner_is_refused() {
        let layout = Layout::for_pack(at_page(100), Covered::Whole, ParityShare::default());
        let page = layout.encode(OWNER);
        for bit in 0..80 * 8 {
            let mut hurt = page.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(Layout::decode(&hurt, OWNER).is_err(), "bit {bit}");
        }
        for other in [
            ParityOwner { number: 5, ..OWNER },
            ParityOwner { epoch: 2, ..OWNER },
            ParityOwner {
                repository: Uuid::from_u128(8),
                ..OWNER
            },
        ] {
            assert_eq!(
                Layout::decode(&page, other),
                Err("it belongs to another pack")
            );
        }
    }

    #[test]
    fn sums_read_back_and_any_flipped_bit_is_found() {
        let sums: Vec<u32> = (0..SUMS_PER_PAGE).map(|number| number * 77).collect();
        let page = encode_sums(3, &sums);
        assert_eq!(decode_sums(3, &page), Some(sums));
        assert_eq!(decode_sums(4, &page), None);
        for bit in (0..PAGE_BYTES * 8).step_by(13) {
            let mut hurt = page.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_sums(3, &hurt), None, "bit {bit}");
        }
    }

    #[test]
    fn names_of_parity_files_read_back() {
        let path = parity_path(0x1234, 1);
        assert_eq!(path.to_str(), Some("packs/34/00001234.00000001.parity"));
        assert_eq!(
            parse_parity_name("00001234.00000001.parity"),
            Some((0x1234, 1))
        );
        assert_eq!(parse_parity_name("00001234.00000001"), None);
        assert_eq!(parse_parity_name(".parity"), None);
    }
}
