//! Names of inodes and entries of folders out of the log.

use std::collections::BTreeSet;

use super::super::checksum::{further_name_hash, name_hash};
use super::super::folder::{Entries, Entry};
use super::super::inode::at;
use super::super::key::{Key, kind};
use super::inodes::single;
use super::{Replay, corrupt};
use crate::bytes::View;
use crate::{GuestError, Place};

/// A name that an inode says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameOfInode {
    pub folder: u64,
    /// The place of the entry in the folder.
    pub place: u64,
    pub name: Vec<u8>,
}

/// The names that an item has.
struct Names<'a> {
    view: View<'a>,
    key: Key,
    at: usize,
}

impl<'a> Names<'a> {
    fn new(key: Key, item: &'a [u8]) -> Self {
        Self {
            view: View::new(item, Place::Inode(key.object)),
            key,
            at: 0,
        }
    }

    /// The folder, the place of the entry in it, and the name.
    fn decode(&mut self) -> Result<(u64, u64, &'a [u8]), GuestError> {
        let (view, mut at) = (self.view, self.at);
        let mut folder = self.key.offset;
        if self.key.kind == kind::FURTHER_NAME_OF_INODE {
            folder = view.u64(at)?;
            at += 8;
        }
        let length = usize::from(view.u16(at + 8)?);
        self.at = at + 10 + length;
        Ok((folder, view.u64(at)?, view.slice(at + 10, length)?))
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = Result<(u64, u64, &'a [u8]), GuestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.view.len() {
            return None;
        }
        let name = self.decode();
        if name.is_err() {
            self.at = self.view.len();
        }
        Some(name)
    }
}

impl NameOfInode {
    /// All names that an item has.
    pub(super) fn all(key: Key, item: &[u8]) -> Result<Vec<Self>, GuestError> {
        let names = Names::new(key, item).map(|name| {
            let (folder, place, name) = name?;
            Ok(Self {
                folder,
                place,
                name: name.to_vec(),
            })
        });
        names.collect()
    }

    fn encode_all(kind: u8, names: &[Self]) -> Vec<u8> {
        let mut item = Vec::new();
        for name in names {
            if kind == kind::FURTHER_NAME_OF_INODE {
                item.extend(name.folder.to_le_bytes());
            }
            item.extend(name.place.to_le_bytes());
            let length = u16::try_from(name.name.len()).unwrap_or(u16::MAX);
            item.extend(length.to_le_bytes());
            item.extend(&name.name);
        }
        item
    }

    /// The keys of the two items that may have this name.
    fn keys(inode: u64, folder: u64, name: &[u8]) -> [Key; 2] {
        [
            Key::new(inode, kind::NAME_OF_INODE, folder),
            Key::new(
                inode,
                kind::FURTHER_NAME_OF_INODE,
                further_name_hash(folder, name),
            ),
        ]
    }
}

impl Entry<'_> {
    pub(super) fn encode(&self, item: &mut Vec<u8>) {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
        item.extend(self.leads_to.object.to_le_bytes());
        item.push(self.leads_to.kind);
        item.extend(self.leads_to.offset.to_le_bytes());
        item.extend([0; 8]);
        item.extend(length(self.value));
        item.extend(length(self.name));
        item.push(self.kind);
        item.extend(self.name);
        item.extend(self.value);
    }
}

/// Whether an entry stays when another of its name or place comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conflict {
    /// There is none, or it was removed, or it stays as what the new one leads to is not there.
    None,
    /// It is the same.
    Same,
}

impl Replay<'_> {
    /// Whether the log has a name of an inode.
    fn is_logged(&mut self, inode: u64, folder: u64, name: &[u8]) -> Result<bool, GuestError> {
        for key in NameOfInode::keys(inode, folder, name) {
            let Some(item) = self.log.get(self.nodes, key)? else {
                continue;
            };
            self.compared_bytes += item.len() as u64;
            if self.compared_bytes > COMPARED_MAX {
                return Err(super::too_large());
            }
            for other in Names::new(key, &item) {
                let (other_folder, _, other) = other?;
                if other_folder == folder && other == name {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What the name of an entry leads to, and its kind.
    fn entry(&self, folder: u64, name: &[u8]) -> Result<Option<(Key, u8)>, GuestError> {
        let key = Key::new(folder, kind::ENTRY_BY_HASH, name_hash(name));
        let item = self.get(key)?.unwrap_or_default();
        for entry in Entries::new(&item, Place::Inode(folder)) {
            let entry = entry?;
            if entry.name == name {
                return Ok(Some((entry.leads_to, entry.kind)));
            }
        }
        Ok(None)
    }

    /// The same by the entry's place, if it has that name.
    fn entry_at(
        &self,
        folder: u64,
        place: u64,
        name: &[u8],
    ) -> Result<Option<(Key, u8)>, GuestError> {
        let Some(item) = self.get(Key::new(folder, kind::ENTRY_BY_INDEX, place))? else {
            return Ok(None);
        };
        let entry = single(&item, Place::Inode(folder))?;
        Ok((entry.name == name).then_some((entry.leads_to, entry.kind)))
    }

    /// Takes over an entry, if no inode of the log says that it has this name: then that adds it.
    pub(super) fn take_entry(&mut self, key: Key, item: &[u8]) -> Result<(), GuestError> {
        let (folder, place) = (key.object, key.offset);
        if self.inode(folder)?.is_none() {
            return Err(corrupt(
                folder,
                "it has entries of a folder that is not there",
            ));
        }
        let new = single(item, Place::Log { inode: folder })?;
        let exists = new.leads_to.kind == kind::INODE && self.inode(new.leads_to.object)?.is_some();
        let there = self.entry(folder, new.name)?;
        let by_name = self.settle(folder, &new, there, exists)?;
        let there = self.entry_at(folder, place, new.name)?;
        let by_place = self.settle(folder, &new, there, exists)?;
        if by_name == Conflict::Same && by_place == Conflict::Same {
            return Ok(());
        }
        let inode = new.leads_to.object;
        if self.is_logged(inode, folder, new.name)? || !exists {
            return Ok(());
        }
        let name = NameOfInode {
            folder,
            place,
            name: new.name.to_vec(),
        };
        if self.entry(folder, new.name)?.is_none() && self.link(inode, &name)? {
            self.add_name(inode, name)?;
            self.relinked.insert(inode);
        }
        Ok(())
    }

    /// Removes what is in the way of a new entry.
    fn settle(
        &mut self,
        folder: u64,
        new: &Entry<'_>,
        there: Option<(Key, u8)>,
        exists: bool,
    ) -> Result<Conflict, GuestError> {
        match there {
            Some((leads_to, kind)) if leads_to == new.leads_to && kind == new.kind => {
                Ok(Conflict::Same)
            }
            Some((leads_to, _)) if exists => {
                self.replace(folder, leads_to, new.name)?;
                Ok(Conflict::None)
            }
            _ => Ok(Conflict::None),
        }
    }

    /// Removes an entry that another is to replace.
    fn replace(&mut self, folder: u64, leads_to: Key, name: &[u8]) -> Result<(), GuestError> {
        if leads_to.kind != kind::INODE {
            return Err(corrupt(folder, "it replaces a subvolume"));
        }
        self.relinked.insert(leads_to.object);
        self.unlink(folder, leads_to.object, name)
    }

    /// Takes over names of an inode, and makes the entries that they speak of.
    pub(super) fn take_names(&mut self, key: Key, item: &[u8]) -> Result<(), GuestError> {
        let inode = key.object;
        let names = NameOfInode::all(key, item)?;
        if self.inode(inode)?.is_none() {
            return Err(corrupt(inode, "it has names of an inode that is not there"));
        }
        let mut seen = BTreeSet::new();
        for name in &names {
            // Not all folders are logged; counting the links settles the rest.
            if self.inode(name.folder)?.is_none() {
                if key.kind == kind::NAME_OF_INODE {
                    return Ok(());
                }
                continue;
            }
            let leads_here = |entry: Option<(Key, u8)>| {
                entry.is_some_and(|(leads_to, _)| leads_to == Key::new(inode, kind::INODE, 0))
            };
            if leads_here(self.entry_at(name.folder, name.place, &name.name)?)
                && leads_here(self.entry(name.folder, &name.name)?)
            {
                continue;
            }
            if inode == name.folder {
                return Ok(());
            }
            for old in NameOfInode::keys(inode, name.folder, &name.name) {
                if seen.insert(old) {
                    self.remove_old_names(old, name.folder)?;
                }
            }
            if let Some((leads_to, _)) = self.entry_at(name.folder, name.place, &name.name)? {
                self.replace(name.folder, leads_to, &name.name)?;
            }
            if let Some((leads_to, _)) = self.entry(name.folder, &name.name)? {
                self.replace(name.folder, leads_to, &name.name)?;
            }
            if !self.link(inode, name)? {
                return Err(corrupt(inode, "a name is there already"));
            }
        }
        // Names that the item has lost go before it is replaced.
        if let Some(old) = self.get(key)? {
            let kept: BTreeSet<(u64, &[u8])> = names
                .iter()
                .map(|name| (name.folder, name.name.as_slice()))
                .collect();
            for old in NameOfInode::all(key, &old)? {
                if !kept.contains(&(old.folder, old.name.as_slice())) {
                    self.unlink(old.folder, inode, &old.name)?;
                }
            }
        }
        self.set(key, item.to_vec())
    }

    /// Removes names of an item that an inode had in a folder and that the log does not have.
    fn remove_old_names(&mut self, key: Key, folder: u64) -> Result<(), GuestError> {
        let Some(item) = self.get(key)? else {
            return Ok(());
        };
        for old in NameOfInode::all(key, &item)? {
            if old.folder == folder && !self.is_logged(key.object, folder, &old.name)? {
                self.unlink(folder, key.object, &old.name)?;
            }
        }
        Ok(())
    }

    /// Adds an entry to a folder, by hash and by place. False if there is one already.
    fn link(&mut self, inode: u64, name: &NameOfInode) -> Result<bool, GuestError> {
        let by_place = Key::new(name.folder, kind::ENTRY_BY_INDEX, name.place);
        if self.get(by_place)?.is_some() || self.entry(name.folder, &name.name)?.is_some() {
            return Ok(false);
        }
        let mode = match self.inode(inode)? {
            Some(item) => View::new(&item, Place::Inode(inode)).u32(at::MODE)?,
            None => return Ok(false),
        };
        let entry = Entry {
            leads_to: Key::new(inode, kind::INODE, 0),
            kind: kind_of_entry(mode),
            name: &name.name,
            value: &[],
        };
        let mut item = Vec::new();
        entry.encode(&mut item);
        self.set(by_place, item.clone())?;
        let by_hash = Key::new(name.folder, kind::ENTRY_BY_HASH, name_hash(&name.name));
        let mut all = self.get(by_hash)?.unwrap_or_default().to_vec();
        all.extend(item);
        self.set(by_hash, all)?;
        let length = name.name.len() as u64 * 2;
        self.change_inode(name.folder, |fields| {
            let size = fields.u64(at::SIZE)?;
            fields.set_u64(at::SIZE, size.saturating_add(length))
        })?;
        Ok(true)
    }

    /// Adds a name to an inode.
    fn add_name(&mut self, inode: u64, name: NameOfInode) -> Result<(), GuestError> {
        let key = Key::new(inode, kind::NAME_OF_INODE, name.folder);
        let old = self.get(key)?.unwrap_or_default();
        let mut names = NameOfInode::all(key, &old)?;
        names.push(name);
        self.set(key, NameOfInode::encode_all(key.kind, &names))
    }

    /// Removes an entry and the name of the inode that it leads to.
    pub(super) fn unlink(
        &mut self,
        folder: u64,
        inode: u64,
        name: &[u8],
    ) -> Result<(), GuestError> {
        let by_hash = Key::new(folder, kind::ENTRY_BY_HASH, name_hash(name));
        let item = self.get(by_hash)?.unwrap_or_default();
        let mut kept = Vec::new();
        for entry in Entries::new(&item, Place::Inode(folder)) {
            let entry = entry?;
            if entry.name != name {
                entry.encode(&mut kept);
            }
        }
        if kept.len() == item.len() {
            return Err(corrupt(folder, "it removes an entry that is not there"));
        }
        match kept.is_empty() {
            true => self.remove(by_hash)?,
            false => self.set(by_hash, kept)?,
        }
        let place = self.remove_name(inode, folder, name)?;
        self.remove(Key::new(folder, kind::ENTRY_BY_INDEX, place))?;
        let length = name.len() as u64 * 2;
        self.change_inode(folder, |fields| {
            let size = fields.u64(at::SIZE)?;
            fields.set_u64(at::SIZE, size.saturating_sub(length))
        })
    }

    /// Removes a name of an inode. Gives the place of the entry.
    fn remove_name(&mut self, inode: u64, folder: u64, name: &[u8]) -> Result<u64, GuestError> {
        for key in NameOfInode::keys(inode, folder, name) {
            let Some(item) = self.get(key)? else {
                continue;
            };
            let mut names = NameOfInode::all(key, &item)?;
            let is_it = |other: &NameOfInode| other.folder == folder && other.name == name;
            let Some(index) = names.iter().position(is_it) else {
                continue;
            };
            let removed = names.remove(index);
            match names.is_empty() {
                true => self.remove(key)?,
                false => self.set(key, NameOfInode::encode_all(key.kind, &names))?,
            }
            return Ok(removed.place);
        }
        Err(corrupt(inode, "it removes a name that is not there"))
    }
}

/// What an entry says of the inode that it leads to.
fn kind_of_entry(mode: u32) -> u8 {
    match mode >> 12 {
        0o10 => 1,
        0o4 => 2,
        0o2 => 3,
        0o6 => 4,
        0o1 => 5,
        0o14 => 6,
        0o12 => 7,
        _ => 0,
    }
}

/// Bytes of items that are looked through for names, again and again where many names are of one folder.
const COMPARED_MAX: u64 = 1 << 32;
