//! Folders: short entries, with long names before them.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Fat;
use super::boot::Root;
use super::chain::Chain;
use super::entry::{END, ENTRY_BYTES, Object, REMOVED, ROOT, names_something};
use super::oem::{checksum, short_name};
use crate::bytes::View;
use crate::dos::DosAttributes;
use crate::entry_tree::{Entry, Visit};
use crate::extents::Extents;
use crate::unicode::name_of;
use crate::{GuestError, Place};

impl Fat {
    /// Where the content of a folder, or of a file that is not empty, lies.
    pub(super) fn placed(&self, object: &Object) -> Result<Arc<Chain>, GuestError> {
        if object.id == ROOT
            && let Root::Fixed { at, length_bytes } = self.geometry.root
        {
            return Ok(Arc::new(Chain {
                extents: Extents::one(at, length_bytes),
                fault: None,
            }));
        }
        if object.cluster == 0 {
            return Err(GuestError::corrupt(object.place(), "it leads nowhere"));
        }
        self.chain(object.cluster)
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
        let chain = self.placed(folder)?;
        let mut long = LongName::new();
        let mut at = from.checked_next_multiple_of(ENTRY_BYTES).unwrap_or(from);
        while let Some((place, _)) = chain.extents.find(at) {
            if at >= FOLDER_BYTES_MAX {
                return Err(GuestError::TooLarge {
                    what: "the length of a folder",
                    limit: FOLDER_BYTES_MAX,
                });
            }
            let Some(chunk) = chain.extents.chunk(&self.pages, at)? else {
                break;
            };
            for (slot, bytes) in (place / ENTRY_BYTES..).zip(chunk.chunks_exact(32)) {
                let offset_bytes = slot * ENTRY_BYTES;
                let view = View::new(bytes, Place::Entry { offset_bytes });
                if view.u8(0)? == END {
                    return Ok(());
                }
                if self
                    .visit_slot(view, slot, at, &mut long, visit)?
                    .is_break()
                {
                    return Ok(());
                }
                at += ENTRY_BYTES;
            }
        }
        // A folder whose first place is behind `from` only because of damage must say so.
        chain.fault.clone().map_or(Ok(()), Err)
    }

    fn visit_slot(
        &self,
        view: View<'_>,
        slot: u64,
        at: u64,
        long: &mut LongName,
        visit: Visit<'_, Object>,
    ) -> Result<ControlFlow<()>, GuestError> {
        if view.u8(11)? & 0x3F == LONG_NAME && view.u8(0)? != REMOVED {
            long.add(view, at)?;
            return Ok(ControlFlow::Continue(()));
        }
        let stored: [u8; 11] = view.array(0)?;
        let found = long.take(checksum(&stored));
        if !names_something(view)? {
            return Ok(ControlFlow::Continue(()));
        }
        let object = Object::decode(slot, view, self.geometry.width)?;
        let short = short_name(&stored, view.u8(12)?);
        let end = at + ENTRY_BYTES;
        let entry = match &found {
            Some((name, start)) => Entry {
                name,
                alias: Some(&short),
                object: &object,
                start: *start,
                end,
            },
            None => Entry {
                name: &short,
                alias: None,
                object: &object,
                start: at,
                end,
            },
        };
        visit(entry)
    }

    /// The label that stands in the folder at the top.
    pub(crate) fn label(&self) -> Result<Option<String>, GuestError> {
        let chain = self.placed(&self.top())?;
        let mut at = 0;
        while at < LABEL_SEARCHED_BYTES
            && let Some(chunk) = chain.extents.chunk(&self.pages, at)?
        {
            for bytes in chunk.chunks_exact(32) {
                let view = View::new(bytes, Place::Head);
                let attributes = view.u8(11)?;
                match view.u8(0)? {
                    END => return Ok(None),
                    REMOVED => continue,
                    _ if attributes & 0x3F == LONG_NAME => continue,
                    _ => {}
                }
                if DosAttributes(attributes.into()).has(DosAttributes::VOLUME_LABEL) {
                    let stored: [u8; 11] = view.array(0)?;
                    let label: String = stored
                        .iter()
                        .map(|byte| super::oem::character(*byte))
                        .collect();
                    return Ok(Some(label.trim_end().to_owned()).filter(|label| !label.is_empty()));
                }
            }
            at += chunk.len() as u64;
        }
        Ok(None)
    }
}

/// What is equal for names that are the same: upper case, character by character.
pub(super) fn fold(name: &[u8]) -> Cow<'_, [u8]> {
    let is_upper = |byte: &u8| byte.is_ascii() && !byte.is_ascii_lowercase();
    if name.iter().all(is_upper) {
        return Cow::Borrowed(name);
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return Cow::Owned(name.to_ascii_uppercase());
    };
    let upper = |character: char| {
        let mut upper = character.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(one), None) => one,
            _ => character,
        }
    };
    let folded: String = text.chars().map(upper).collect();
    Cow::Owned(folded.into_bytes())
}

/// A long name as it is put together: its last part comes first.
struct LongName {
    /// Parts of thirteen units, the last first.
    parts: Vec<[u16; 13]>,
    /// Which part has to come next; 0 when all are there.
    next: u8,
    checksum: u8,
    /// Where in the folder it begins.
    start: u64,
}

impl LongName {
    fn new() -> Self {
        Self {
            parts: Vec::new(),
            next: 0,
            checksum: 0,
            start: 0,
        }
    }

    fn add(&mut self, view: View<'_>, at: u64) -> Result<(), GuestError> {
        let order = view.u8(0)?;
        let number = order & !LAST;
        if order & LAST != 0 {
            *self = Self::new();
            self.next = number;
            self.checksum = view.u8(13)?;
            self.start = at;
        }
        let is_next = number == self.next && (1..=PARTS_MAX).contains(&number);
        if !is_next || view.u8(13)? != self.checksum {
            *self = Self::new();
            return Ok(());
        }
        let mut part = [0; 13];
        for (unit, at) in part.iter_mut().zip(UNITS_AT) {
            *unit = view.u16(at)?;
        }
        self.parts.push(part);
        self.next -= 1;
        Ok(())
    }

    /// The name and where it begins, if it is whole and belongs to the entry that follows it.
    fn take(&mut self, checksum: u8) -> Option<(Vec<u8>, u64)> {
        let name = std::mem::replace(self, Self::new());
        if name.parts.is_empty() || name.next != 0 || name.checksum != checksum {
            return None;
        }
        let units = name.parts.iter().rev().flatten().copied();
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        (!units.is_empty() && units.len() <= UNITS_MAX).then(|| (name_of(units), name.start))
    }
}

/// Attributes of an entry that is a part of a long name.
const LONG_NAME: u8 = 0x0F;
/// Marks the part that comes first.
const LAST: u8 = 0x40;
const PARTS_MAX: u8 = 20;
const UNITS_MAX: usize = 255;
const UNITS_AT: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// Far above what is allowed, which is 2 MiB.
const FOLDER_BYTES_MAX: u64 = 256 << 20;
/// It is the first entry, as a rule.
const LABEL_SEARCHED_BYTES: u64 = 64 << 10;
