//! What lies in a volume, told by its magic numbers and nothing else.

use crate::bytes::{View, text, to_usize};
use crate::ntfs::{SECTORS, ends_at};
use crate::{GuestError, Place, Source};

/// What lies in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The second extended filesystem.
    Ext2,
    /// The same with a journal.
    Ext3,
    /// The fourth.
    Ext4,
    /// A journal for an ext3 or ext4 that lies elsewhere.
    ExtJournal,
    /// XFS.
    Xfs,
    /// NTFS.
    Ntfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    ExFat,
    /// btrfs.
    Btrfs,
    /// ISO 9660.
    Iso9660,
    /// F2FS.
    F2fs,
    /// Apple's HFS+.
    HfsPlus,
    /// Apple's HFS, from before.
    Hfs,
    /// Apple's APFS.
    Apfs,
    /// JFS.
    Jfs,
    /// ReiserFS.
    ReiserFs,
    /// Squashfs.
    Squashfs,
    /// NILFS2.
    Nilfs2,
    /// EROFS.
    Erofs,
    /// UDF.
    Udf,
    /// UFS of the BSDs.
    Ufs,
    /// Microsoft's ReFS.
    ReFs,
    /// Swap of Linux.
    Swap,
    /// A physical volume of LVM2.
    Lvm2,
    /// A member of a software array of Linux.
    Md,
    /// A device of bcache.
    Bcache,
    /// A member of a pool of ZFS.
    Zfs,
    /// Encrypted by LUKS.
    Luks,
    /// Encrypted by BitLocker.
    BitLocker,
    /// Nothing that is known.
    Unknown,
    /// Not to be told, as its first bytes are lost.
    Unreadable,
}

impl Content {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::ExtJournal => "external ext journal",
            Self::Xfs => "XFS",
            Self::Ntfs => "NTFS",
            Self::Fat => "FAT",
            Self::ExFat => "exFAT",
            Self::Btrfs => "btrfs",
            Self::Iso9660 => "ISO 9660",
            Self::F2fs => "F2FS",
            Self::HfsPlus => "HFS+",
            Self::Hfs => "HFS",
            Self::Apfs => "APFS",
            Self::Jfs => "JFS",
            Self::ReiserFs => "ReiserFS",
            Self::Squashfs => "squashfs",
            Self::Nilfs2 => "NILFS2",
            Self::Erofs => "EROFS",
            Self::Udf => "UDF",
            Self::Ufs => "UFS",
            Self::ReFs => "ReFS",
            Self::Swap => "swap",
            Self::Lvm2 => "LVM2 physical volume",
            Self::Md => "member of a Linux software array",
            Self::Bcache => "bcache device",
            Self::Zfs => "member of a ZFS pool",
            Self::Luks => "LUKS (encrypted)",
            Self::BitLocker => "BitLocker (encrypted)",
            Self::Unknown => "unknown content",
            Self::Unreadable => "content whose beginning cannot be read",
        }
    }

    /// Whether it fills the volume from its first sector, so that a table of partitions there would only seem to be one.
    pub(crate) fn has_boot_sector(self) -> bool {
        matches!(
            self,
            Self::Ntfs | Self::Fat | Self::ExFat | Self::ReFs | Self::BitLocker
        )
    }
}

/// Finds out what `volume` holds, and its label.
pub(crate) fn recognize(volume: &dyn Source) -> Result<(Content, Option<String>), GuestError> {
    let length = volume.length_bytes().min(HEAD_BYTES);
    let head = volume.read(0, to_usize(length))?.to_vec();
    let head = Head(&head);
    let content = if is_md(volume, &head)? {
        Content::Md
    } else if is_zfs(volume)? {
        Content::Zfs
    } else {
        match head.content() {
            Content::Unknown if ends_in_ntfs(volume)? => Content::Ntfs,
            content => content,
        }
    };
    Ok((content, head.label(content)))
}

/// The first bytes of a volume.
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn has(&self, at: usize, magic: &[u8]) -> bool {
        self.0
            .get(at..)
            .is_some_and(|bytes| bytes.starts_with(magic))
    }

    fn content(&self) -> Content {
        let fixed = MAGICS
            .iter()
            .find(|(at, magic, _)| self.has(*at, magic))
            .map(|(_, _, content)| *content);
        if let Some(content) = fixed {
            return content;
        }
        if (0..4).any(|sector| {
            self.has(sector * 512, b"LABELONE") && self.has(sector * 512 + 24, b"LVM2 001")
        }) {
            return Content::Lvm2;
        }
        if let Some(content) = self.ext() {
            return content;
        }
        let swap =
            |page: usize| self.has(page - 10, b"SWAPSPACE2") || self.has(page - 10, b"SWAP-SPACE");
        if [4096, 8192, 16384, 65536].into_iter().any(swap) {
            return Content::Swap;
        }
        if self.is_fat().unwrap_or(false) {
            return Content::Fat;
        }
        self.with_short_magic().unwrap_or(Content::Unknown)
    }

    /// Filesystems whose magic is of two bytes: what stands beside it must make sense too.
    fn with_short_magic(&self) -> Option<Content> {
        let view = View::new(self.0, Place::Head);
        if self.has(1024, b"BD") {
            // A block of HFS is a number of sectors. Around an HFS+ there may be one that says where it lies.
            let block = view.big32(1024 + 20).ok()?;
            return match block > 0 && block.is_multiple_of(512) {
                true if self.has(1024 + 124, b"H+") => Some(Content::HfsPlus),
                true => Some(Content::Hfs),
                false => None,
            };
        }
        let is_nilfs = view.u32(1024).ok()? == NILFS_REVISION
            && self.has(1024 + 6, b"\x34\x34")
            && (64..=1024).contains(&view.u16(1024 + 8).ok()?);
        is_nilfs.then_some(Content::Nilfs2)
    }

    fn ext(&self) -> Option<Content> {
        let view = View::new(self.0, Place::Head);
        if view.u16(1024 + 0x38).ok()? != 0xEF53 {
            return None;
        }
        let compatible = view.u32(1024 + 0x5C).ok()?;
        let incompatible = view.u32(1024 + 0x60).ok()?;
        let read_only = view.u32(1024 + 0x64).ok()?;
        let content = if incompatible & 0x8 != 0 {
            Content::ExtJournal
        } else if incompatible & !0x16 != 0 || read_only & !0x7 != 0 {
            Content::Ext4
        } else if compatible & 0x4 != 0 {
            Content::Ext3
        } else {
            Content::Ext2
        };
        Some(content)
    }

    /// A boot sector of FAT has no magic of its own: all that it says must make sense.
    fn is_fat(&self) -> Result<bool, GuestError> {
        let view = View::new(self.0, Place::Head);
        let (sector, cluster) = (view.u16(11)?, view.u8(13)?);
        let sound = matches!(view.u8(0)?, 0xEB | 0xE9)
            && view.u16(510)? == 0xAA55
            && sector.is_power_of_two()
            && (512..=4096).contains(&sector)
            && cluster.is_power_of_two()
            && view.u16(14)? > 0
            && matches!(view.u8(16)?, 1 | 2)
            && view.u8(21)? >= 0xF0
            && (view.u16(22)? > 0 || view.u32(36)? > 0);
        Ok(sound)
    }

    fn label(&self, content: Content) -> Option<String> {
        let (at, length) = match content {
            Content::Ext2 | Content::Ext3 | Content::Ext4 => (1024 + 0x78, 16),
            Content::Xfs => (108, 12),
            Content::Btrfs => (65536 + 299, 256),
            Content::Swap => (1024 + 28, 16),
            Content::Iso9660 => (32768 + 40, 32),
            Content::Fat if self.has(82, b"FAT32") => (71, 11),
            Content::Fat if self.has(54, b"FAT1") => (43, 11),
            _ => return None,
        };
        let field = self.0.get(at..at + length)?;
        text(field).filter(|label| label != "NO NAME")
    }
}

/// Members of arrays are looked for first: what lies inside may begin where the member does.
fn is_md(volume: &dyn Source, head: &Head<'_>) -> Result<bool, GuestError> {
    if head.has(0, MD_MAGIC) || head.has(4096, MD_MAGIC) {
        return Ok(true);
    }
    let sectors = volume.length_bytes() / 512;
    let version_1_0 = sectors.checked_sub(16).map(|sector| (sector & !7) * 512);
    let version_0 = (volume.length_bytes() & !0xFFFF).checked_sub(0x1_0000);
    for at in [version_1_0, version_0].into_iter().flatten() {
        if at > 0 && volume.read(at, 4)?.to_vec() == MD_MAGIC {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the copy of a boot sector of NTFS is there, as where the first one was lost.
fn ends_in_ntfs(volume: &dyn Source) -> Result<bool, GuestError> {
    for sector in SECTORS {
        let Some(at) = volume.length_bytes().checked_sub(sector) else {
            continue;
        };
        match volume.read(at, 512) {
            // It must be of this volume, not of one that ends where a disk does.
            Ok(bytes) if ends_at(&bytes.to_vec()) == Some(at) => return Ok(true),
            Err(error) if !error.is_of_one_place() => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// ZFS leaves the first 8 KiB alone, so that an older filesystem may still seem to be there. Its newest states lie in a
/// ring of 128 KiB, each with a magic number in the order of bytes of its machine.
fn is_zfs(volume: &dyn Source) -> Result<bool, GuestError> {
    if volume.length_bytes() < ZFS_RING_AT + ZFS_RING_BYTES as u64 {
        return Ok(false);
    }
    let ring = match volume.read(ZFS_RING_AT, ZFS_RING_BYTES) {
        // A lost place says nothing of what is elsewhere.
        Err(error) if error.is_of_one_place() => return Ok(false),
        other => other?.to_vec(),
    };
    let mut slots = ring.chunks_exact(1024);
    Ok(slots.any(|slot| {
        slot.starts_with(&ZFS_MAGIC.to_le_bytes()) || slot.starts_with(&ZFS_MAGIC.to_be_bytes())
    }))
}

const ZFS_RING_AT: u64 = 128 << 10;
const ZFS_RING_BYTES: usize = 128 << 10;
const ZFS_MAGIC: u64 = 0x00BA_B10C;

const MD_MAGIC: &[u8] = &[0xFC, 0x4E, 0x2B, 0xA9];

/// As far as the farthest magic and label reach.
const HEAD_BYTES: u64 = 66 * 1024;

const MAGICS: &[(usize, &[u8], Content)] = &[
    (0, b"LUKS\xBA\xBE", Content::Luks),
    (3, b"-FVE-FS-", Content::BitLocker),
    (
        4096 + 24,
        b"\xC6\x85\x73\xF6\x4E\x1A\x45\xCA\x82\x65\xF5\x7F\x48\xBA\x6D\x81",
        Content::Bcache,
    ),
    (
        424,
        b"\x3B\xD6\x67\x49\x29\x2E\xD8\x4A\x83\x99\xF6\xA3\x39\xE3\xD0\x01",
        Content::BitLocker,
    ),
    (3, b"NTFS    ", Content::Ntfs),
    (3, b"EXFAT   ", Content::ExFat),
    (3, b"ReFS\0\0\0\0", Content::ReFs),
    (0, b"XFSB", Content::Xfs),
    (0, b"hsqs", Content::Squashfs),
    (32, b"NXSB", Content::Apfs),
    (65536 + 64, b"_BHRfS_M", Content::Btrfs),
    (65536 + 52, b"ReIsEr", Content::ReiserFs),
    (32768, b"JFS1", Content::Jfs),
    (32769, b"CD001", Content::Iso9660),
    (1024, b"H+\0\x04", Content::HfsPlus),
    (1024, b"HX\0\x05", Content::HfsPlus),
    (1024, b"\x10\x20\xF5\xF2", Content::F2fs),
    (1024, b"\xE2\xE1\xF5\xE0", Content::Erofs),
    (32769, b"BEA01", Content::Udf),
    (8192 + 1372, b"\x54\x19\x01\x00", Content::Ufs),
    (65536 + 1372, b"\x19\x01\x54\x19", Content::Ufs),
];

const NILFS_REVISION: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a volume is taken for in which those bytes stand, and where any of them is another.
    fn check(marks: &[(usize, &[u8])], expected: Content) {
        let mut head = vec![0; 66 * 1024];
        for (at, mark) in marks {
            head[*at..][..mark.len()].copy_from_slice(mark);
        }
        assert_eq!(Head(&head).content(), expected);
        for (at, mark) in marks {
            for place in *at..at + mark.len() {
                let mut other = head.clone();
                other[place] ^= 0x41;
                assert_ne!(Head(&other).content(), expected, "byte {place}");
            }
        }
    }

    #[test]
    fn filesystems_without_a_reader_are_known_by_their_marks() {
        check(&[(1024, b"\x10\x20\xF5\xF2")], Content::F2fs);
        check(&[(1024, b"\xE2\xE1\xF5\xE0")], Content::Erofs);
        check(&[(32769, b"BEA01")], Content::Udf);
        check(&[(9564, b"\x54\x19\x01\x00")], Content::Ufs);
        check(&[(66908, b"\x19\x01\x54\x19")], Content::Ufs);
        let nilfs: [(usize, &[u8]); 3] = [
            (1024, b"\x02\x00\x00\x00"),
            (1030, b"\x34\x34"),
            (1033, b"\x01"),
        ];
        check(&nilfs, Content::Nilfs2);
        let hfs: [(usize, &[u8]); 2] = [(1024, b"BD"), (1024 + 22, b"\x10\x00")];
        let mut head = vec![0; 4096];
        hfs.iter()
            .for_each(|(at, mark)| head[*at..][..mark.len()].copy_from_slice(mark));
        assert_eq!(Head(&head).content(), Content::Hfs);
        head[1024 + 124..][..2].copy_from_slice(b"H+");
        assert_eq!(Head(&head).content(), Content::HfsPlus);
        head[1024 + 23] = 1;
        assert_eq!(
            Head(&head).content(),
            Content::Unknown,
            "no number of sectors"
        );
    }
}
