//! The log: whether it would have to be replayed, and which clusters it allocates or frees.

use std::ops::Range;

use super::Ntfs;
use super::allocation::merge;
use super::record::{bounded, mend};
use crate::bytes::{View, to_usize};
use crate::{GuestError, Place};

/// What the log says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// Whether the volume was in use, so that changes may be in the log alone.
    pub is_open: bool,
    /// Clusters whose bits in the bitmap are changed by anything that is in it, done or not: sorted.
    pub touched: Vec<Range<u64>>,
}

/// What a page says where the log begins.
struct Restart {
    lsn: u64,
    is_open: bool,
    page_bytes: usize,
    /// Pages before this one are copies of others.
    first_page: usize,
    data_at: usize,
}

impl Ntfs {
    /// Whether the log would have to be replayed.
    pub(super) fn log_is_open(&self) -> Result<bool, GuestError> {
        let node = self.node(LOG)?;
        let data = node.data().ok_or_else(|| corrupt(0, "it has no content"))?;
        let head = self.read(LOG, data, 0, RESTART_BYTES * 2)?.to_vec();
        Ok(restart(&head)?.is_some_and(|restart| restart.is_open))
    }

    /// Reads the log. The clusters that it touches are wanted only of one that is open.
    pub(super) fn log(&self) -> Result<Log, GuestError> {
        if !self.log_is_open()? {
            return Ok(Log::default());
        }
        let node = self.node(LOG)?;
        let data = node.data().ok_or_else(|| corrupt(0, "it has no content"))?;
        let length = bounded(data.size_bytes(), LOG_MAX, "the length of the log")?;
        let mut bytes = self.read(LOG, data, 0, length as u64)?.to_vec();
        let restart = restart(&bytes)?.ok_or_else(|| corrupt(0, "it is empty"))?;
        let mut touched = Vec::new();
        let pages = Pages::mend(&mut bytes, &restart)?;
        for page in 0..pages.all.len() {
            pages.look(
                page,
                self.boot.cluster_bytes,
                self.boot.clusters,
                &mut touched,
            )?;
            if touched.len() > TOUCHED_MAX {
                merge(&mut touched);
                bounded(
                    touched.len() as u64,
                    TOUCHED_MAX as u64,
                    "what the log touches",
                )?;
            }
        }
        merge(&mut touched);
        Ok(Log {
            is_open: true,
            touched,
        })
    }
}

/// The newer of the two pages that say how the log was left; `None` for a log that was emptied.
fn restart(log: &[u8]) -> Result<Option<Restart>, GuestError> {
    let head = log.get(..to_usize(RESTART_BYTES) * 2).unwrap_or(log);
    if head.iter().all(|byte| *byte == 0xFF) {
        return Ok(None);
    }
    let mut pages: Vec<Restart> = Vec::new();
    for (number, page) in (0..).zip(head.chunks_exact(to_usize(RESTART_BYTES))) {
        let mut page = page.to_vec();
        let place = Place::Journal { block: number };
        if mend(&mut page, *b"RSTR", place).is_ok() {
            pages.extend(Restart::decode(View::new(&page, place)).ok());
        }
    }
    let newest = pages.into_iter().max_by_key(|page| page.lsn);
    newest
        .map(Some)
        .ok_or_else(|| corrupt(0, "neither of its first pages can be read"))
}

impl Restart {
    fn decode(page: View<'_>) -> Result<Self, GuestError> {
        let page_bytes = usize::try_from(page.u32(0x14)?).unwrap_or(usize::MAX);
        if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
            return Err(page.corrupt("its pages have an impossible size"));
        }
        let area = page.slice(usize::from(page.u16(0x18)?), 0x28)?;
        let area = View::new(area, Place::Journal { block: 0 });
        let is_clean = area.u16(0x0E)? & VOLUME_IS_CLEAN != 0;
        Ok(Self {
            lsn: area.u64(0)?,
            is_open: area.u16(0x0C)? != NO_CLIENT && !is_clean,
            page_bytes,
            first_page: if page.u16(0x1C)? >= 2 { 34 } else { 4 },
            data_at: usize::from(area.u16(0x26)?),
        })
    }
}

/// Pages of the log, as they were before they were written.
struct Pages<'a> {
    all: Vec<Option<&'a [u8]>>,
    first: usize,
    data_at: usize,
}

impl<'a> Pages<'a> {
    fn mend(log: &'a mut [u8], restart: &Restart) -> Result<Self, GuestError> {
        let head = to_usize(RESTART_BYTES) * 2;
        let mut all = Vec::new();
        for (number, page) in (0..).zip(log.chunks_exact_mut(restart.page_bytes)) {
            let place = Place::Journal { block: number };
            let is_head = all.len() * restart.page_bytes < head;
            let unused =
                page.iter().take(4).all(|byte| *byte == 0xFF) || page.iter().all(|byte| *byte == 0);
            if is_head || unused {
                all.push(None);
                continue;
            }
            mend(page, *b"RCRD", place)?;
            all.push(Some(&*page));
        }
        if restart.data_at < 0x28 || restart.data_at >= restart.page_bytes {
            return Err(corrupt(0, "its pages have an impossible head"));
        }
        Ok(Self {
            all,
            first: restart.first_page,
            data_at: restart.data_at,
        })
    }

    /// Adds what the records of a page do to the bitmap. A record tells where it lies, so that all that there are can be
    /// found, also those that nobody needs any more: the more, the safer.
    fn look(
        &self,
        page: usize,
        cluster_bytes: u64,
        clusters: u64,
        touched: &mut Vec<Range<u64>>,
    ) -> Result<(), GuestError> {
        let Some(Some(bytes)) = self.all.get(page) else {
            return Ok(());
        };
        let view = View::new(bytes, Place::Journal { block: page as u64 });
        for at in (self.data_at..bytes.len()).step_by(8) {
            let lsn = view.u64(at)?;
            let place = (lsn & (bytes.len() as u64 / 8 - 1)) * 8;
            if lsn == 0 || place != at as u64 || at + HEAD_BYTES > bytes.len() {
                continue;
            }
            let length = view.u32(at + 0x18)?;
            if view.u32(at + 0x20)? != CLIENT_RECORD || !(0x20..=RECORD_MAX).contains(&length) {
                continue;
            }
            // Only what is to be looked at, lest a long record that is none costs much.
            let body = self.continued(page, at + HEAD_BYTES, 0x20.min(to_usize(length.into())));
            let Some(body) = body else {
                return Err(view.corrupt("a record of it goes on where nothing is"));
            };
            let body = View::new(&body, Place::Journal { block: page as u64 });
            let is_of_bits = |at| {
                body.u16(at)
                    .map(|operation| BIT_CHANGES.contains(&operation))
            };
            for (operation, data) in [(0, 4), (2, 8)] {
                if !is_of_bits(operation)? {
                    continue;
                }
                let start = usize::from(body.u16(data)?);
                let whole = self.continued(page, at + HEAD_BYTES, start + 8);
                let whole = whole.ok_or_else(|| view.corrupt("a record of it is cut off"))?;
                let bits = View::new(&whole, Place::Journal { block: page as u64 });
                let base = body.u64(0x18)?.checked_mul(cluster_bytes);
                let within = u64::from(body.u16(0x14)?) * 512 + u64::from(body.u16(0x10)?);
                let first = base.and_then(|base| base.checked_add(within)?.checked_mul(8));
                let first =
                    first.and_then(|first| first.checked_add(u64::from(bits.u32(start).ok()?)));
                let count = u64::from(bits.u32(start + 4)?);
                if let Some(first) = first.filter(|first| *first < clusters) {
                    touched.push(first..first.saturating_add(count).min(clusters));
                }
            }
        }
        Ok(())
    }

    /// Bytes from a place in a page on, which go on in the next page behind its head.
    fn continued(&self, page: usize, at: usize, length: usize) -> Option<Vec<u8>> {
        let mut bytes = self.all.get(page).copied().flatten()?.get(at..)?.to_vec();
        let mut page = page;
        while bytes.len() < length {
            page += 1;
            if page == self.all.len() {
                page = self.first;
            }
            let next = self.all.get(page).copied().flatten()?;
            bytes.extend_from_slice(next.get(self.data_at..)?);
        }
        bytes.truncate(length);
        Some(bytes)
    }
}

fn corrupt(block: u64, detail: &'static str) -> GuestError {
    GuestError::corrupt(Place::Journal { block }, detail)
}

const LOG: u64 = 2;
const RESTART_BYTES: u64 = 4096;
const NO_CLIENT: u16 = 0xFFFF;
const VOLUME_IS_CLEAN: u16 = 2;
const HEAD_BYTES: usize = 0x30;
const CLIENT_RECORD: u32 = 1;
/// Setting and clearing of bits.
const BIT_CHANGES: [u16; 2] = [0x15, 0x16];
const RECORD_MAX: u32 = 1 << 20;
const LOG_MAX: u64 = 256 << 20;
const TOUCHED_MAX: usize = 1 << 20;
