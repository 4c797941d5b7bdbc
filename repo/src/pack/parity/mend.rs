//! Putting rebuilt pages back into a pack.
//!
//! They are written where they belong. Only pages that were found bad are written, with bytes that the sum taken when
//! parity was made proves. So whatever a crash leaves of such a write, the page is as bad as it was or better; it
//! counts as lost in its group already, and parity is not touched until the pack is whole. Nothing else could be done
//! on a full disk, and a bad sector is given a spare one by being written.

use std::collections::BTreeMap;
use std::io::IoSlice;

use super::format::{at_page, page_count};
use super::view::has_page;
use crate::disk::{AlignedBuffer, DiskError, DiskFile};

/// Writes `pages` to a pack, durably, and cuts what is behind its `whole_length`. Gives how many pages can be read
/// back afterwards.
pub(crate) fn mend_pages(
    pack: &dyn DiskFile,
    pages: &BTreeMap<u32, Vec<u8>>,
    whole_length: Option<u64>,
) -> Result<u64, DiskError> {
    for (page, bytes) in pages {
        let mut aligned = AlignedBuffer::zeroed(bytes.len());
        aligned.copy_from_slice(bytes);
        pack.write_at(at_page(*page), &[IoSlice::new(&aligned)])?;
    }
    pack.sync()?;
    if let Some(whole) = whole_length
        && page_count(pack.length()?) > page_count(whole)
    {
        pack.set_length(whole)?;
        pack.sync()?;
    }
    let back = pages
        .iter()
        .filter(|(page, bytes)| has_page(pack, **page, bytes));
    Ok(back.count() as u64)
}
