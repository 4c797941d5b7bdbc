//! Folders: names by their hash, and in the order in which they were made.

use std::ops::ControlFlow;

use export::FileKind;

use super::Btrfs;
use super::checksum::name_hash;
use super::inode::Inode;
use super::key::{KEY_BYTES, Key, kind, object};
use super::subvolumes::Shown;
use crate::bytes::View;
use crate::{GuestError, Place};

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The key of an inode here, or of another subvolume.
    pub leads_to: Key,
    /// What it leads to, as a number.
    pub kind: u8,
    pub name: &'a [u8],
    /// What an extended attribute has as its value.
    pub value: &'a [u8],
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// An inode.
    Object { subvolume: usize, inode: u64 },
    /// Where a subvolume was when this one was made a snapshot: a folder without anything in it.
    Empty { within: usize, subvolume: u64 },
}

/// The entries that one item has.
pub(super) struct Entries<'a> {
    view: View<'a>,
    at: usize,
}

impl<'a> Entries<'a> {
    pub(super) fn new(item: &'a [u8], place: Place) -> Self {
        Self {
            view: View::new(item, place),
            at: 0,
        }
    }

    fn decode(&mut self) -> Result<Entry<'a>, GuestError> {
        let (view, at) = (self.view, self.at);
        let value_length = usize::from(view.u16(at + KEY_BYTES + 8)?);
        let name_length = usize::from(view.u16(at + KEY_BYTES + 10)?);
        let name_at = at + HEAD_BYTES;
        let entry = Entry {
            leads_to: Key::decode(view, at)?,
            kind: view.u8(at + KEY_BYTES + 12)?,
            name: view.slice(name_at, name_length)?,
            value: view.slice(name_at + name_length, value_length)?,
        };
        self.at = name_at + name_length + value_length;
        Ok(entry)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.view.len() {
            return None;
        }
        let entry = self.decode();
        if entry.is_err() {
            self.at = self.view.len();
        }
        Some(entry)
    }
}

type Visit<'v> = &'v mut dyn FnMut(u64, &Entry<'_>) -> Result<ControlFlow<()>, GuestError>;

impl Btrfs {
    /// What `name` leads to in a folder.
    pub(super) fn find(&self, folder: &Inode, name: &[u8]) -> Result<Target, GuestError> {
        check_folder(folder)?;
        let here = Target::Object {
            subvolume: folder.subvolume,
            inode: folder.number,
        };
        match name {
            b"." => return Ok(here),
            b".." => return self.parent(folder),
            _ => {}
        }
        let items = &self.subvolume(folder.subvolume)?.items;
        let key = Key::new(folder.number, kind::ENTRY_BY_HASH, name_hash(name));
        let Some(item) = items.get(&self.nodes, key)? else {
            return Err(GuestError::NotFound);
        };
        for entry in Entries::new(&item, folder.place()) {
            let entry = entry?;
            if entry.name == name {
                return self.target(folder.subvolume, folder.number, &entry);
            }
        }
        Err(GuestError::NotFound)
    }

    /// Calls `visit` with the entries from place `from` on, and with their places.
    pub(super) fn entries(
        &self,
        folder: &Inode,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        check_folder(folder)?;
        let items = &self.subvolume(folder.subvolume)?.items;
        let key = |offset| Key::new(folder.number, kind::ENTRY_BY_INDEX, offset);
        let (first, last) = (key(from), key(u64::MAX));
        items.scan(&self.nodes, first, last, &mut |key, item| {
            let broken = |detail| Err(GuestError::corrupt(folder.place(), detail));
            let mut entries = Entries::new(item, folder.place());
            let Some(entry) = entries.next().transpose()? else {
                return broken("an entry has no name");
            };
            if !is_name(entry.name) {
                return broken("an entry has a name that none may have");
            }
            if entries.next().is_some() {
                return broken("a place has more than one entry");
            }
            visit(key.offset, &entry)
        })
    }

    /// What an entry of a folder leads to.
    pub(super) fn target(
        &self,
        within: usize,
        folder: u64,
        entry: &Entry<'_>,
    ) -> Result<Target, GuestError> {
        let number = entry.leads_to.object;
        match entry.leads_to.kind {
            kind::INODE => Ok(Target::Object {
                subvolume: within,
                inode: number,
            }),
            kind::ROOT => {
                let parent = self.subvolume(within)?.items.tree;
                let is_here = |shown: &Shown| {
                    shown.subvolume == parent && shown.folder == folder && shown.name == entry.name
                };
                let shown = self.roots.index_of(number).filter(|index| {
                    let subvolume = self.roots.subvolumes.get(*index);
                    subvolume.is_some_and(|other| other.shown.as_ref().is_some_and(is_here))
                });
                Ok(match shown {
                    Some(subvolume) => Target::Object {
                        subvolume,
                        inode: object::FIRST,
                    },
                    None => Target::Empty {
                        within,
                        subvolume: number,
                    },
                })
            }
            _ => Err(GuestError::corrupt(
                Place::Inode(folder),
                "an entry leads to something that is no file",
            )),
        }
    }

    /// The folder that a folder is in.
    fn parent(&self, folder: &Inode) -> Result<Target, GuestError> {
        let object = |subvolume, inode| Target::Object { subvolume, inode };
        let subvolume = self.subvolume(folder.subvolume)?;
        if folder.number == object::FIRST {
            let above = subvolume.shown.as_ref().and_then(|shown| {
                let index = self.roots.index_of(shown.subvolume)?;
                Some(object(index, shown.folder))
            });
            return Ok(above.unwrap_or(object(folder.subvolume, folder.number)));
        }
        let key = |offset| Key::new(folder.number, kind::NAME_OF_INODE, offset);
        let mut parent = None;
        let (first, last) = (key(0), key(u64::MAX));
        subvolume
            .items
            .scan(&self.nodes, first, last, &mut |key, _| {
                parent = Some(key.offset);
                Ok(ControlFlow::Break(()))
            })?;
        let missing = GuestError::corrupt(folder.place(), "nothing says which folder it is in");
        parent
            .map(|inode| object(folder.subvolume, inode))
            .ok_or(missing)
    }

    /// The folder in which the entry lies that leads to an empty place of a subvolume.
    pub(super) fn folder_of_empty(&self, within: usize, number: u64) -> Result<u64, GuestError> {
        let items = &self.subvolume(within)?.items;
        let mut folder = None;
        items.scan(&self.nodes, Key::MIN, Key::MAX, &mut |key, item| {
            if key.kind == kind::ENTRY_BY_INDEX {
                let entry = Entries::new(item, Place::Inode(key.object)).next();
                let leads_to = entry.transpose()?.map(|entry| entry.leads_to);
                if leads_to.is_some_and(|key| key.kind == kind::ROOT && key.object == number) {
                    folder = Some(key.object);
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        folder.ok_or(GuestError::NotFound)
    }
}

fn check_folder(folder: &Inode) -> Result<(), GuestError> {
    match folder.kind() {
        FileKind::Directory => Ok(()),
        _ => Err(GuestError::NotDirectory),
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name != b"."
        && name != b".."
}

pub(super) const HEAD_BYTES: usize = KEY_BYTES + 13;
pub(super) const NAME_MAX: usize = 255;
