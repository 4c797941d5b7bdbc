//! Files and folders, put together from records.

use std::sync::Arc;

use export::{FileKind, SpecialFile, Timestamp};

use super::Iso;
use super::record::{Record, flag};
use super::rock_ridge::RockRidge;
use crate::extents::Extents;
use crate::{GuestError, Place};

/// A file or folder.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Where its first record lies on the disk: of a folder, its own one, with which its content begins.
    pub id: u64,
    pub kind: FileKind,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Timestamp,
    pub accessed: Timestamp,
    pub changed: Timestamp,
    pub created: Option<Timestamp>,
    pub special: Option<SpecialFile>,
    pub target: Vec<u8>,
    pub extents: Arc<Extents>,
    /// Why its content is not read.
    pub fault: Option<GuestError>,
    /// Whether nothing is known of it but where it is.
    pub is_unreadable: bool,
}

/// A name in a folder, before it is known whether it is shown.
pub(super) struct Named {
    pub name: Vec<u8>,
    pub object: Object,
    /// Where the last of its records ends, on the disk.
    pub end: u64,
}

impl Iso {
    /// What has its first record at a place.
    pub(super) fn at(&self, id: u64) -> Result<Object, GuestError> {
        let record = self.record(id)?;
        if record.has(flag::FOLDER)? {
            return self.folder_at(id);
        }
        let rock_ridge = self.rock_ridge(&record)?;
        if record.is_own_or_above()? || rock_ridge.child.is_some() {
            return Err(GuestError::NotFound);
        }
        Ok(self.file(record, &rock_ridge, None)?.0)
    }

    fn record(&self, at: u64) -> Result<Record, GuestError> {
        if at == 0
            || at
                .checked_add(1)
                .is_none_or(|end| end > self.pages.source().length_bytes())
        {
            return Err(GuestError::NotFound);
        }
        Record::read(self, at)?.ok_or(GuestError::NotFound)
    }

    /// A folder by where its content begins, which is its own record.
    fn folder_at(&self, at: u64) -> Result<Object, GuestError> {
        let record = self.record(at)?;
        let damage = |detail| GuestError::corrupt(record.place(), detail);
        if record.stored_name()? != [0] || !record.has(flag::FOLDER)? {
            return Err(damage("it does not begin a folder"));
        }
        if self.block_at(record.first_block()?) != at {
            return Err(damage("a folder says that it is elsewhere"));
        }
        let rock_ridge = self.rock_ridge(&record)?;
        let mut object = Object::new(&record, &rock_ridge, FileKind::Directory)?;
        object.extents = Arc::new(Extents::one(at, record.size_bytes()?));
        Ok(object)
    }

    /// What a record of a folder leads to, if it is shown. A record goes on in those that follow before `folder_end`.
    pub(super) fn named(
        &self,
        record: Record,
        folder_end: u64,
    ) -> Result<(Option<Named>, u64), GuestError> {
        let own_end = record.end();
        if record.is_own_or_above()? || record.has(flag::ASSOCIATED)? {
            return Ok((None, own_end));
        }
        let rock_ridge = self.rock_ridge(&record)?;
        if rock_ridge.is_put_here {
            return Ok((None, own_end));
        }
        let name = match &rock_ridge.name {
            Some(name) if !name.is_empty() => crate::unicode::shown(name.clone()),
            _ => record.name(self.names)?,
        };
        let leads_to = match rock_ridge.child {
            Some(block) => Some(self.block_at(block)),
            None if record.has(flag::FOLDER)? => Some(self.block_at(record.first_block()?)),
            None => None,
        };
        let (object, end) = match leads_to {
            None => self.file(record, &rock_ridge, Some(folder_end))?,
            Some(at) => match self.folder_at(at) {
                Err(error) if error.is_of_one_place() => (Object::unreadable(at, error), own_end),
                other => (other?, own_end),
            },
        };
        Ok((Some(Named { name, object, end }), end))
    }

    /// A file by its first record, and where the last one ends.
    fn file(
        &self,
        record: Record,
        rock_ridge: &RockRidge,
        folder_end: Option<u64>,
    ) -> Result<(Object, u64), GuestError> {
        let kind = if rock_ridge.is_link() {
            FileKind::Symlink
        } else {
            FileKind::File
        };
        let mut object = Object::new(&record, rock_ridge, kind)?;
        let unsupported = rock_ridge.unsupported.map(GuestError::unsupported);
        object.fault = unsupported.or(object.fault);
        let mut extents = Extents::default();
        let mut last = record;
        for _ in 0..RECORDS_MAX {
            let at = self.block_at(last.first_block()?);
            if last.is_interleaved()? {
                object.fault = Some(GuestError::unsupported("an interleaved file"));
            }
            extents.push(at, last.size_bytes()?)?;
            if !last.has(flag::GOES_ON)? {
                break;
            }
            let mut next = Record::read(self, last.end())?;
            if next.is_none() {
                let sector = Self::next_sector(last.end() - 1);
                next = match folder_end.is_none_or(|end| sector < end) {
                    true => Record::read(self, sector)?,
                    false => None,
                };
            }
            match next {
                Some(next) if next.stored_name()? == last.stored_name()? => last = next,
                _ => {
                    let missing = "a file does not go on although it says so";
                    object.fault = Some(GuestError::corrupt(last.place(), missing));
                    break;
                }
            }
        }
        let holds_content = kind == FileKind::File && object.special.is_none();
        if holds_content {
            object.extents = Arc::new(extents);
        }
        Ok((object, last.end()))
    }

    /// What holds a folder.
    pub(super) fn above(&self, folder: &Object) -> Result<u64, GuestError> {
        let own = self.record(folder.id)?;
        let above = self.record(own.end())?;
        if above.stored_name()? != [1] {
            let place = Place::Entry {
                offset_bytes: above.at,
            };
            return Err(GuestError::corrupt(
                place,
                "a folder does not say what holds it",
            ));
        }
        let really = self.rock_ridge(&above)?.parent;
        let block = really.map_or_else(|| above.first_block(), Ok)?;
        Ok(self.folder_at(self.block_at(block))?.id)
    }
}

impl Object {
    fn new(record: &Record, rock_ridge: &RockRidge, kind: FileKind) -> Result<Self, GuestError> {
        let recorded = record.recorded()?;
        let modified = rock_ridge.modified.unwrap_or(recorded);
        let special = match kind {
            FileKind::File => rock_ridge.special(),
            _ => None,
        };
        Ok(Self {
            id: record.at,
            kind,
            mode: rock_ridge.mode.map_or(0o555, |mode| mode & 0o7777),
            links: rock_ridge.links.max(1),
            uid: rock_ridge.uid,
            gid: rock_ridge.gid,
            modified,
            accessed: rock_ridge.accessed.unwrap_or(modified),
            changed: rock_ridge.changed.unwrap_or(modified),
            created: rock_ridge.created,
            special,
            target: match kind {
                FileKind::Symlink => rock_ridge.target.clone().unwrap_or_default(),
                _ => Vec::new(),
            },
            extents: Arc::default(),
            fault: None,
            is_unreadable: false,
        })
    }

    fn unreadable(id: u64, fault: GuestError) -> Self {
        Self {
            id,
            kind: FileKind::File,
            mode: 0,
            links: 1,
            uid: 0,
            gid: 0,
            modified: Timestamp::default(),
            accessed: Timestamp::default(),
            changed: Timestamp::default(),
            created: None,
            special: None,
            target: Vec::new(),
            extents: Arc::default(),
            fault: Some(fault),
            is_unreadable: true,
        }
    }
}

/// Records of one file: 64 TiB.
const RECORDS_MAX: usize = 1 << 14;
