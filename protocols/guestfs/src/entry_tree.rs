//! A tree of files for formats in which all that is known of a file stands in its folder's entry.
//!
//! Objects are named by the places of their entries, which stay where they are. Where a format does not say what holds
//! a folder, that is remembered for the folders that were shown, and searched for if it was forgotten.

use std::borrow::Cow;
use std::fmt;
use std::ops::ControlFlow;

use export::{
    Attributes, DirectoryEntry, ExportError, ExtendedAttribute, FileExport, FileId, FileKind,
    FileRead, Particulars, Segments, Statistics,
};
use quick_cache::sync::Cache;

use crate::GuestError;
use crate::names::{INDEX_FROM_BYTES, Learn, NameIndex};
use crate::shown::check_name;

/// A format of this kind, opened.
pub(crate) trait EntryFormat: Send + Sync + 'static {
    /// A file or folder.
    type Object;

    /// Names the folder at the top.
    fn root(&self) -> u64;

    /// What has its entry at a place.
    fn object(&self, id: u64) -> Result<Self::Object, GuestError>;

    /// Calls `visit` with the entries of a folder that end behind `from`.
    fn scan(
        &self,
        folder: &Self::Object,
        from: u64,
        visit: Visit<'_, Self::Object>,
    ) -> Result<(), GuestError>;

    fn attributes(&self, object: &Self::Object) -> Attributes;

    /// Bytes of a file that lie before its end.
    fn read(&self, file: &Self::Object, offset: u64, length: u64) -> Result<Segments, GuestError>;

    fn statistics(&self) -> Result<Statistics, GuestError>;

    /// What holds a folder, if the format says so.
    fn parent(&self, folder: &Self::Object) -> Result<Parent, GuestError>;

    /// What is equal for names that are the same.
    fn fold<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        Cow::Borrowed(name)
    }

    fn link_target(&self, _: &Self::Object) -> Result<Vec<u8>, GuestError> {
        Err(GuestError::Invalid)
    }

    fn extended_attributes(&self, object: &Self::Object) -> Vec<ExtendedAttribute>;

    fn particulars(&self, object: &Self::Object) -> Particulars;
}

pub(crate) type Visit<'v, O> =
    &'v mut dyn FnMut(Entry<'_, O>) -> Result<ControlFlow<()>, GuestError>;

/// A name in a folder.
pub(crate) struct Entry<'e, O> {
    pub name: &'e [u8],
    /// Another name by which it is found, but not shown.
    pub alias: Option<&'e [u8]>,
    /// What it leads to; an empty file without rights if it is damaged.
    pub object: &'e O,
    /// Where it begins in the folder.
    pub start: u64,
    /// Where it ends; more than 2.
    pub end: u64,
}

/// What a format says of the folder that holds another.
pub(crate) enum Parent {
    Is(u64),
    NotStored,
}

/// A tree that never changes.
pub(crate) struct EntryTree<F> {
    format: F,
    names: NameIndex,
    /// What holds folders, by the places of their entries.
    parents: Cache<u64, u64>,
}

enum Where {
    FromThere,
    OnlyThere,
}

struct Match {
    file: u64,
    kind: FileKind,
    exact: bool,
}

impl<F: EntryFormat> EntryTree<F> {
    pub(crate) fn new(format: F) -> Self {
        Self {
            format,
            names: NameIndex::new(),
            parents: Cache::new(PARENTS_KEPT),
        }
    }

    fn find(&self, id: u64, folder: &F::Object, name: &[u8]) -> Result<u64, GuestError> {
        match name {
            b"." => return Ok(id),
            b".." => return self.holder(id, folder),
            _ => {}
        }
        let folded = self.format.fold(name);
        let size_bytes = self.format.attributes(folder).size_bytes;
        let places = if size_bytes > INDEX_FROM_BYTES {
            let scan = |learn: Learn<'_>| self.tell_names(folder, learn);
            self.names.places(id, &folded, scan)?
        } else {
            None
        };
        let found = match places {
            None => self.search(folder, 0, name, &folded, &Where::FromThere)?,
            Some(places) => {
                let mut best = None;
                for place in places {
                    let found = self.search(folder, place, name, &folded, &Where::OnlyThere)?;
                    best = better(best, found);
                }
                best
            }
        };
        let found = found.ok_or(GuestError::NotFound)?;
        self.remember(found.file, found.kind, id);
        Ok(found.file)
    }

    fn tell_names(&self, folder: &F::Object, learn: Learn<'_>) -> Result<(), GuestError> {
        self.format.scan(folder, 0, &mut |entry| {
            let mut flow = learn(&self.format.fold(entry.name), entry.start);
            if let Some(alias) = entry.alias
                && flow.is_continue()
            {
                flow = learn(&self.format.fold(alias), entry.start);
            }
            Ok(flow)
        })
    }

    /// Looks for a name from a place on, or only at the place. What is written in the same way goes before what is only
    /// the same name.
    fn search(
        &self,
        folder: &F::Object,
        start: u64,
        name: &[u8],
        folded: &[u8],
        place: &Where,
    ) -> Result<Option<Match>, GuestError> {
        let mut best = None;
        self.format.scan(folder, start, &mut |entry| {
            let is_same = |other: &[u8]| *self.format.fold(other) == *folded;
            if is_same(entry.name) || entry.alias.is_some_and(is_same) {
                let attributes = self.format.attributes(entry.object);
                let found = Match {
                    file: attributes.file.0,
                    kind: attributes.kind,
                    exact: entry.name == name,
                };
                best = better(best.take(), Some(found));
            }
            let enough = best.as_ref().is_some_and(|best: &Match| best.exact);
            let passed = matches!(place, Where::OnlyThere) && entry.start >= start;
            Ok(if enough || passed {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(best)
    }

    fn remember(&self, file: u64, kind: FileKind, holder: u64) {
        if kind == FileKind::Directory {
            self.parents.insert(file, holder);
        }
    }

    /// What holds a folder.
    fn holder(&self, id: u64, folder: &F::Object) -> Result<u64, GuestError> {
        if id == self.format.root() {
            return Ok(id);
        }
        if let Parent::Is(parent) = self.format.parent(folder)? {
            return Ok(parent);
        }
        match self.parents.get(&id) {
            Some(parent) => Ok(parent),
            None => self.search_holder(id),
        }
    }

    /// Goes through the folders from the top until one is found that holds `wanted`.
    fn search_holder(&self, wanted: u64) -> Result<u64, GuestError> {
        let mut waiting = vec![self.format.root()];
        let mut known = std::collections::BTreeSet::new();
        let mut parent = None;
        let mut entries = 0_u64;
        while let Some(id) = waiting.pop() {
            let scanned = self.format.object(id).and_then(|folder| {
                self.format.scan(&folder, 0, &mut |entry| {
                    entries += 1;
                    let attributes = self.format.attributes(entry.object);
                    if attributes.kind == FileKind::Directory && known.insert(attributes.file.0) {
                        self.remember(attributes.file.0, attributes.kind, id);
                        waiting.push(attributes.file.0);
                    }
                    if attributes.file.0 == wanted {
                        parent = Some(id);
                    }
                    let enough = parent.is_some() || entries > SEARCHED_MAX;
                    Ok(if enough {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                })
            });
            match scanned {
                // It may be elsewhere.
                Err(error) if error.is_of_one_place() => {}
                other => other?,
            }
            if let Some(parent) = parent {
                return Ok(parent);
            }
            if entries > SEARCHED_MAX || known.len() > FOLDERS_SEARCHED_MAX {
                return Err(GuestError::TooLarge {
                    what: "the number of files among which a folder's parent is",
                    limit: SEARCHED_MAX,
                });
            }
        }
        Err(GuestError::NotFound)
    }
}

fn better(one: Option<Match>, other: Option<Match>) -> Option<Match> {
    match (one, other) {
        (Some(one), Some(other)) if other.exact && !one.exact => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}

impl<F: EntryFormat> FileExport for EntryTree<F> {
    fn root(&self) -> FileId {
        FileId(self.format.root())
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        Ok(self.format.statistics()?)
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(self.format.attributes(&self.format.object(file.0)?))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let folder = self.format.object(directory.0)?;
        if self.format.attributes(&folder).kind != FileKind::Directory {
            return Err(ExportError::NotDirectory);
        }
        check_name(name, NAME_MAX)?;
        Ok(FileId(self.find(directory.0, &folder, name)?))
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let object = self.format.object(file.0)?;
        let attributes = self.format.attributes(&object);
        match attributes.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(ExportError::IsDirectory),
            FileKind::Symlink => return Err(ExportError::Invalid),
        }
        let end = offset
            .saturating_add(u64::from(length))
            .min(attributes.size_bytes);
        let data = match end.checked_sub(offset) {
            Some(length) if length > 0 => self.format.read(&object, offset, length)?,
            _ => Segments::new(),
        };
        Ok(FileRead {
            end: end >= attributes.size_bytes,
            data,
            attributes: Some(attributes),
        })
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let folder = self.format.object(directory.0)?;
        if self.format.attributes(&folder).kind != FileKind::Directory {
            return Err(ExportError::NotDirectory);
        }
        let mut entries = Vec::new();
        if limit == 0 {
            return Ok(entries);
        }
        self.format.scan(&folder, cookie, &mut |entry| {
            let attributes = self.format.attributes(entry.object);
            self.remember(attributes.file.0, attributes.kind, directory.0);
            entries.push(DirectoryEntry {
                file: attributes.file,
                name: entry.name.to_vec(),
                cookie: entry.end,
                attributes,
            });
            Ok(if entries.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(entries)
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        Ok(self.format.link_target(&self.format.object(file.0)?)?)
    }

    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        let object = self.format.object(file.0)?;
        Ok(self.format.extended_attributes(&object))
    }

    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        Ok(self.format.particulars(&self.format.object(file.0)?))
    }
}

impl<F: fmt::Debug> fmt::Debug for EntryTree<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryTree")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

const NAME_MAX: usize = 255;
/// Folders whose parents are remembered: about 16 MiB.
const PARENTS_KEPT: usize = 256 << 10;
/// Files and folders among which a forgotten parent is searched.
const SEARCHED_MAX: u64 = 16 << 20;
const FOLDERS_SEARCHED_MAX: usize = 1 << 20;
