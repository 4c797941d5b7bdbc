//! Folders, and what the one at the top says of the filesystem itself.

use std::sync::Arc;

use super::entry::{
    BITMAP, END, ENTRY_BYTES, FILE, LABEL, Object, ROOT, Set, Stream, UP_CASE, place_of,
};
use super::{ExFat, System};
use crate::bytes::{View, to_usize};
use crate::entry_tree::{Entry, Visit};
use crate::extents::Extents;
use crate::{GuestError, Place};

impl ExFat {
    /// The folder at the top.
    pub(super) fn top(&self) -> Result<Object, GuestError> {
        let cluster = self.geometry.root_cluster;
        let chain = self.chain(cluster)?;
        Ok(Object::top(cluster, chain.length_bytes()))
    }

    /// What has its set of entries at a place.
    pub(super) fn at(&self, id: u64) -> Result<Object, GuestError> {
        if id == ROOT {
            return self.top();
        }
        let object = self.set_at(id)?.object;
        match object.fault {
            None => Ok(object),
            Some(detail) => Err(GuestError::corrupt(object.place(), detail)),
        }
    }

    /// A set of entries by its place. Which cluster it goes on in, only its folder knows: the checksum tells which of
    /// the two possible ones it is.
    fn set_at(&self, id: u64) -> Result<Set, GuestError> {
        let geometry = &self.geometry;
        let at = id.checked_mul(ENTRY_BYTES as u64);
        let at = at.filter(|at| (geometry.heap_at..geometry.heap_end()).contains(at));
        let at = at.ok_or(GuestError::NotFound)?;
        let head = self.pages.read(at, ENTRY_BYTES)?;
        let head = View::new(&head, place_of(id));
        if head.u8(0)? != FILE {
            return Err(GuestError::NotFound);
        }
        let length = (usize::from(head.u8(1)?) + 1) * ENTRY_BYTES;
        let index = (at - geometry.heap_at) / geometry.cluster_bytes;
        let end = geometry.heap_at + (index + 1) * geometry.cluster_bytes;
        let here = length.min(to_usize(end - at));
        let first = self.pages.read(at, here)?;
        if here == length {
            return Set::decode(id, &first);
        }
        let cluster = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(2);
        let mut set = None;
        for next in [self.next(cluster)?, cluster.saturating_add(1)] {
            let Some(place) = geometry.place(next) else {
                continue;
            };
            let rest = self.pages.read(place, length - here)?;
            let found = Set::decode(id, &[&first[..], &rest[..]].concat())?;
            if found.object.fault.is_none() {
                return Ok(found);
            }
            set = Some(found);
        }
        set.map_or_else(|| Set::decode(id, &first), Ok)
    }

    /// Calls `visit` with the entries of a folder that end behind `from`.
    pub(super) fn scan_folder(
        &self,
        folder: &Object,
        from: u64,
        visit: Visit<'_, Object>,
    ) -> Result<(), GuestError> {
        if !folder.attributes.is_folder() {
            return Err(GuestError::NotDirectory);
        }
        let extents = self.folder(folder)?;
        let unit = ENTRY_BYTES as u64;
        let mut slots = Slots::new(self, &extents, folder, from.checked_next_multiple_of(unit));
        while let Some((start, place, bytes)) = slots.next()? {
            match View::new(&bytes, place_of(place / unit)).u8(0)? {
                END => return Ok(()),
                FILE => {}
                _ => continue,
            }
            let mut set = bytes.to_vec();
            let more = usize::from(View::new(&bytes, Place::Head).u8(1)?);
            for _ in 0..more {
                match slots.peek()? {
                    Some(entry)
                        if entry
                            .first()
                            .is_some_and(|kind| kind & SECONDARY == SECONDARY) =>
                    {
                        set.extend_from_slice(&entry);
                        slots.skip();
                    }
                    _ => break,
                }
            }
            let Set { object, name } = Set::decode(place / unit, &set)?;
            let entry = Entry {
                name: &name,
                alias: None,
                object: &object,
                start,
                end: slots.at,
            };
            if visit(entry)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn folder(&self, folder: &Object) -> Result<Arc<Extents>, GuestError> {
        if folder.stream.length_bytes > FOLDER_BYTES_MAX {
            return Err(GuestError::TooLarge {
                what: "the length of a folder",
                limit: FOLDER_BYTES_MAX,
            });
        }
        self.extents(&folder.stream)
    }

    /// Reads what the folder at the top says of the filesystem.
    pub(super) fn read_system(&self) -> Result<System, GuestError> {
        let top = self.top()?;
        let extents = self.folder(&top)?;
        let mut slots = Slots::new(self, &extents, &top, Some(0));
        let mut system = System::default();
        while let Some((_, place, bytes)) = slots.next()? {
            let view = View::new(&bytes, place_of(place / ENTRY_BYTES as u64));
            match view.u8(0)? {
                END => break,
                BITMAP => {
                    let which = usize::from(view.u8(1)? & 1);
                    if let Some(bitmap) = system.bitmaps.get_mut(which) {
                        // The flag that tells which it is stands where others say how the content lies.
                        *bitmap = Some(Stream {
                            is_contiguous: false,
                            ..Stream::decode(view, 0)?
                        });
                    }
                }
                UP_CASE => {
                    let stream = Stream {
                        is_contiguous: false,
                        ..Stream::decode(view, 0)?
                    };
                    system.upcase = Some((stream, view.u32(4)?));
                }
                LABEL => {
                    let units = usize::from(view.u8(1)?).min(11);
                    let units: Result<Vec<u16>, GuestError> =
                        (0..units).map(|unit| view.u16(2 + unit * 2)).collect();
                    let label = String::from_utf16_lossy(&units?);
                    system.label = Some(label).filter(|label| !label.is_empty());
                }
                _ => {}
            }
        }
        Ok(system)
    }
}

/// The entries of a folder one after the other.
struct Slots<'f> {
    exfat: &'f ExFat,
    extents: &'f Extents,
    /// Where in the folder the next lies.
    at: u64,
    /// Where the folder ends, which may be before its last cluster does.
    end: u64,
    chunk: ::bytes::Bytes,
    /// Where in the chunk it lies.
    skip: usize,
}

impl<'f> Slots<'f> {
    fn new(exfat: &'f ExFat, extents: &'f Extents, of: &Object, from: Option<u64>) -> Self {
        Self {
            exfat,
            extents,
            at: from.unwrap_or(u64::MAX),
            end: of.stream.length_bytes,
            chunk: ::bytes::Bytes::new(),
            skip: 0,
        }
    }

    /// The next entry, without going on.
    fn peek(&mut self) -> Result<Option<::bytes::Bytes>, GuestError> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.skip + ENTRY_BYTES > self.chunk.len() {
            let Some(chunk) = self.extents.chunk(&self.exfat.pages, self.at)? else {
                return Ok(None);
            };
            if chunk.len() < ENTRY_BYTES {
                return Ok(None);
            }
            (self.chunk, self.skip) = (chunk, 0);
        }
        Ok(Some(self.chunk.slice(self.skip..self.skip + ENTRY_BYTES)))
    }

    fn skip(&mut self) {
        self.skip += ENTRY_BYTES;
        self.at += ENTRY_BYTES as u64;
    }

    /// Where in the folder and on the disk the next entry lies, and the entry.
    fn next(&mut self) -> Result<Option<(u64, u64, ::bytes::Bytes)>, GuestError> {
        let Some(entry) = self.peek()? else {
            return Ok(None);
        };
        let at = self.at;
        let place = self.extents.find(at).map_or(0, |(place, _)| place);
        self.skip();
        Ok(Some((at, place, entry)))
    }
}

/// Bits of an entry that belongs to the one before it and is in use.
const SECONDARY: u8 = 0xC0;
/// As the format has it.
const FOLDER_BYTES_MAX: u64 = 256 << 20;
