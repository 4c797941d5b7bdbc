//! Names in folders.

use std::cmp::Ordering;
use std::sync::Arc;

use super::index::{Cursor, Entry, Index};
use super::name::{shown, to_bytes, to_units};
use super::node::{Name, Node};
use super::record::reference;
use super::reparse::Nature;
use super::{FIRST_USER, Ntfs, ROOT};
use crate::bytes::View;
use crate::{GuestError, Place};

/// A name in a folder and what it leads to.
pub(super) struct Found {
    pub name: Vec<u8>,
    pub reference: u64,
    /// How many entries of the folder come before what follows.
    pub count: u64,
}

/// The names of a folder, each after the other.
pub(super) struct Listing<'a> {
    ntfs: &'a Ntfs,
    folder: &'a Node,
    index: Index<'a>,
    cursor: Cursor,
    count: u64,
}

impl<'a> Listing<'a> {
    /// The names after the first `count` entries.
    pub(super) fn after(ntfs: &'a Ntfs, folder: &'a Node, count: u64) -> Result<Self, GuestError> {
        let index = folder_index(ntfs, folder)?;
        let kept = {
            let mut listings = ntfs.listings.lock();
            let at = listings
                .iter()
                .position(|(of, at, _)| (*of, *at) == (folder.number, count));
            at.and_then(|at| listings.remove(at))
        };
        let mut listing = Self {
            cursor: index.start(),
            ntfs,
            folder,
            index,
            count: 0,
        };
        if let Some((_, _, cursor)) = kept {
            listing.cursor = cursor;
            listing.count = count;
        }
        while listing.count < count && listing.index.next(&mut listing.cursor)?.is_some() {
            listing.count += 1;
        }
        Ok(listing)
    }

    /// The next name that is to be shown.
    pub(super) fn next(&mut self) -> Result<Option<Found>, GuestError> {
        while let Some(entry) = self.index.next(&mut self.cursor)? {
            self.count += 1;
            let name = name_of(&entry, self.folder)?;
            if name.is_short() || is_hidden(entry.reference) {
                continue;
            }
            let name = shown(&name.name, self.folder.place())?;
            return Ok(Some(Found {
                name: shortened(name, entry.reference),
                reference: entry.reference,
                count: self.count,
            }));
        }
        Ok(None)
    }

    /// Keeps the place for whoever goes on from here.
    pub(super) fn keep(self) {
        let mut listings = self.ntfs.listings.lock();
        listings.push_front((self.folder.number, self.count, self.cursor));
        listings.truncate(LISTINGS_KEPT);
    }
}

fn folder_index<'a>(ntfs: &'a Ntfs, folder: &'a Node) -> Result<Index<'a>, GuestError> {
    if folder.nature != Nature::Folder {
        return Err(GuestError::NotDirectory);
    }
    Index::open(ntfs, folder, "$I30")
}

fn name_of(entry: &Entry, folder: &Node) -> Result<Name, GuestError> {
    Name::decode(View::new(&entry.key, folder.place()))
}

/// The filesystem's own files, as Windows hides them, and the root, which is in itself.
fn is_hidden(link: u64) -> bool {
    reference(link).0 < FIRST_USER
}

/// Names have up to 255 units, and what is served up to 255 bytes: of longer ones as much as fits, and the number of the
/// record, so that none is there twice.
fn shortened(name: Vec<u8>, link: u64) -> Vec<u8> {
    if name.len() <= NAME_MAX {
        return name;
    }
    let mut end = NAME_MAX - 13;
    while name.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    let mut short = name;
    short.truncate(end);
    short.extend(format!("~{:x}", reference(link).0).bytes());
    short
}

impl Ntfs {
    /// What a name in a folder leads to: exactly that name, else one that is the same but for capitals.
    pub(super) fn find(&self, folder: &Node, name: &[u8]) -> Result<Option<Arc<Node>>, GuestError> {
        let index = folder_index(self, folder)?;
        let Some(wanted) = to_units(name) else {
            return Ok(None);
        };
        let mut cursor = index.start();
        let mut next = match &self.capitals {
            Some(capitals) => index.seek(&mut cursor, |entry| {
                Ok(capitals.compare(&name_of(entry, folder)?.name, &wanted))
            })?,
            None => index.next(&mut cursor)?,
        };
        let mut similar = None;
        while let Some(entry) = next {
            let found = name_of(&entry, folder)?;
            let order = match &self.capitals {
                Some(capitals) => capitals.compare(&found.name, &wanted),
                None if found.name == wanted => Ordering::Equal,
                None => Ordering::Less,
            };
            if order == Ordering::Greater {
                break;
            }
            if order == Ordering::Equal && !is_hidden(entry.reference) {
                if found.name == wanted {
                    return self.follow(folder, entry.reference).map(Some);
                }
                similar = similar.or(Some(entry.reference));
            }
            next = index.next(&mut cursor)?;
        }
        match similar {
            Some(link) => self.follow(folder, link).map(Some),
            None => self.find_shortened(folder, name),
        }
    }

    fn find_shortened(&self, folder: &Node, name: &[u8]) -> Result<Option<Arc<Node>>, GuestError> {
        let digits = name.iter().rposition(|byte| *byte == b'~');
        let digits = digits.filter(|at| *at > NAME_MAX - 20);
        let digits = digits.and_then(|at| std::str::from_utf8(name.get(at + 1..)?).ok());
        let Some(number) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else {
            return Ok(None);
        };
        if number < FIRST_USER {
            return Ok(None);
        }
        let node = match self.node(number) {
            Err(GuestError::NotFound) => return Ok(None),
            other => other?,
        };
        let is_it = node.names()?.iter().any(|other| {
            let (of, sequence) = reference(other.folder);
            (of, sequence) == (folder.number, folder.sequence)
                && shortened(to_bytes(&other.name), number) == name
        });
        Ok(is_it.then_some(node))
    }

    /// What a reference leads to, unless its record is another file's by now.
    pub(super) fn follow(&self, from: &Node, link: u64) -> Result<Arc<Node>, GuestError> {
        let (number, sequence) = reference(link);
        let stale = |detail| GuestError::corrupt(Place::Record(from.number), detail);
        let node = match self.node(number) {
            Err(GuestError::NotFound) => {
                return Err(stale("it leads to a record that is not in use"));
            }
            other => other?,
        };
        if sequence != 0 && sequence != node.sequence {
            return Err(stale("it leads to a record that is another file's"));
        }
        Ok(node)
    }

    /// The folder that a folder is in.
    pub(super) fn parent(&self, folder: &Node) -> Result<u64, GuestError> {
        if folder.number == ROOT {
            return Ok(ROOT);
        }
        let names = folder.names()?;
        let name = names.iter().find(|name| !name.is_short());
        let name = name.ok_or_else(|| folder.corrupt("it has no name"))?;
        let parent = self.follow(folder, name.folder)?;
        if parent.nature != Nature::Folder {
            return Err(folder.corrupt("it is in what is no folder"));
        }
        Ok(parent.number)
    }
}

const NAME_MAX: usize = 255;
const LISTINGS_KEPT: usize = 64;
