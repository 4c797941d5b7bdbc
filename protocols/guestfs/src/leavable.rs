//! What is in use and need not be kept: the guest makes it again.

use std::ops::Range;

use crate::entry_walk::leavable;
use crate::exfat::ExFat;
use crate::fat::Fat;
use crate::{Content, GuestError, Source, Volume, ntfs};

/// Why something that is in use can be left out of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Leavable {
    /// Swap of Linux, but for its first page, which says what it is.
    Swap,
    /// Windows' `pagefile.sys` and `swapfile.sys`.
    PageFile,
    /// Windows' `hiberfil.sys`.
    Hibernation,
    /// What was thrown away and is still there.
    RecycleBin,
}

impl Volume {
    /// Bytes of the volume that can be left out, ascending. No byte of a structure of the filesystem is among them. Whoever
    /// gets an error leaves nothing out.
    pub fn leavable(&self) -> Result<Vec<(Leavable, Range<u64>)>, GuestError> {
        if self.is_striped {
            return Ok(Vec::new());
        }
        match self.content {
            Content::Swap => swap(&*self.source()),
            Content::Ntfs => ntfs::leavable(self.source()),
            Content::Fat => leavable(&Fat::open(self.source())?),
            Content::ExFat => leavable(&ExFat::open(self.source())?),
            _ => Ok(Vec::new()),
        }
    }
}

/// Everything behind the first page, whose length the place of the signature tells.
fn swap(source: &dyn Source) -> Result<Vec<(Leavable, Range<u64>)>, GuestError> {
    let length = source.length_bytes();
    let pages = PAGES.into_iter().filter(|page| page * 2 <= length);
    for page in pages {
        let signature = source.read(page - SIGNATURE.len() as u64, SIGNATURE.len())?;
        if signature.to_vec() == SIGNATURE {
            return Ok(vec![(Leavable::Swap, page..length)]);
        }
    }
    // Recognized by an older signature, or too short to be worth it.
    Ok(Vec::new())
}

/// Sizes of pages that Linux has on some machine.
const PAGES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];
const SIGNATURE: &[u8] = b"SWAPSPACE2";
