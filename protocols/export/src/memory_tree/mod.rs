//! A tree of files in RAM.
//!
//! Two levels of locks, always taken in this order: the table of objects, which every change of names holds alone, so
//! that a rename is one step to all who look; then one object. Content is kept in blocks that are shared with the
//! answers to reads: a write to a block that some answer still holds copies the block first.

mod clock;
mod content;
mod object;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockWriteGuard};

use self::clock::Clock;
use self::content::{Content, Space};
use self::object::{Body, Directory, Object};
use crate::{
    Attributes, Caller, CreateMode, Created, DirectoryEntry, Durability, ExportError, FileExport,
    FileId, FileRead, SetAttributes, Statistics, Timestamp, Written,
};

/// A [`FileExport`] that keeps everything in memory and forgets it when dropped.
///
/// Who may do what is the server's business: the caller only becomes the owner of what it makes.
pub struct MemoryTree {
    objects: RwLock<HashMap<FileId, Arc<Object>>>,
    next_file: AtomicU64,
    clock: Clock,
    space: Space,
}

impl MemoryTree {
    /// An empty tree with room for 16 GiB.
    pub fn new() -> Self {
        Self::with_capacity(16 << 30)
    }

    /// An empty tree whose files may hold `capacity_bytes` together.
    pub fn with_capacity(capacity_bytes: u64) -> Self {
        let clock = Clock::default();
        let root = Object::new(
            ROOT,
            Body::Directory(Directory::new(ROOT)),
            0o755,
            0,
            0,
            clock.now(),
        );
        Self {
            objects: RwLock::new(HashMap::from([(ROOT, Arc::new(root))])),
            next_file: AtomicU64::new(ROOT.0 + 1),
            clock,
            space: Space {
                capacity_bytes,
                used_bytes: AtomicU64::new(0),
            },
        }
    }

    fn object(&self, file: FileId) -> Result<Arc<Object>, ExportError> {
        self.objects
            .read()
            .get(&file)
            .cloned()
            .ok_or(ExportError::Stale)
    }

    /// Makes an object under a name that must be free, with the table of objects held.
    fn add(
        &self,
        names: &mut Names<'_>,
        caller: &Caller,
        directory: &Arc<Object>,
        name: &[u8],
        body: Body,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let now = self.clock.now();
        let file = FileId(self.next_file.fetch_add(1, Ordering::Relaxed));
        let mode = attributes.mode.unwrap_or(body.default_mode()) & MODE_MASK;
        let (parent_mode, parent_gid) = {
            let parent = directory.state.read();
            (parent.mode, parent.gid)
        };
        let gid = if parent_mode & SET_GROUP != 0 {
            parent_gid
        } else {
            caller.gid
        };
        let is_directory = matches!(body, Body::Directory(_));
        let object = Object::new(file, body, mode, caller.uid, gid, now);
        {
            let initial = SetAttributes {
                mode: None,
                ..*attributes
            };
            object.state.write().change(&initial, &self.space, now)?;
        }
        let created = Created {
            file,
            attributes: object.state.read().attributes(file),
        };
        let mut parent = directory.state.write();
        parent.directory_mut()?.insert(name, file);
        parent.links += u32::from(is_directory);
        parent.touch(now);
        names.insert(file, Arc::new(object));
        Ok(created)
    }

    /// Takes away one name of an object, and the object with its last name.
    fn drop_name(&self, names: &mut Names<'_>, file: FileId, now: Timestamp) {
        let Some(object) = names.get(&file).cloned() else {
            return;
        };
        let mut state = object.state.write();
        state.links = match state.body {
            Body::Directory(_) => 0,
            _ => state.links.saturating_sub(1),
        };
        state.changed = now;
        if state.links == 0 {
            names.remove(&file);
            if let Body::File(content) = &mut state.body {
                self.space.give_back(content.blocks.len());
                content.blocks.clear();
            }
        }
    }

    fn remove_kind(
        &self,
        directory: FileId,
        name: &[u8],
        wanted: Wanted,
    ) -> Result<(), ExportError> {
        check_name(name)?;
        let mut names = self.objects.write();
        let parent = find(&names, directory)?;
        let file = parent
            .state
            .read()
            .directory()?
            .find(name)
            .ok_or(ExportError::NotFound)?;
        let object = find(&names, file)?;
        match (&object.state.read().body, wanted) {
            (Body::Directory(_), Wanted::Other) => return Err(ExportError::IsDirectory),
            (Body::Directory(entries), Wanted::Directory) if !entries.names.is_empty() => {
                return Err(ExportError::NotEmpty);
            }
            (Body::File(_) | Body::Symlink(_), Wanted::Directory) => {
                return Err(ExportError::NotDirectory);
            }
            _ => {}
        }
        let now = self.clock.now();
        let mut state = parent.state.write();
        state.directory_mut()?.remove(name);
        state.links -= u32::from(wanted == Wanted::Directory);
        state.touch(now);
        drop(state);
        self.drop_name(&mut names, file, now);
        Ok(())
    }

    /// Whether `file` is `above` or lies somewhere under it.
    fn is_below(names: &Names<'_>, mut file: FileId, above: FileId) -> Result<bool, ExportError> {
        while file != above {
            if file == ROOT {
                return Ok(false);
            }
            file = find(names, file)?.state.read().directory()?.parent;
        }
        Ok(true)
    }

    /// Whether `moved` may take the place of `replaced`, by the rules of POSIX.
    fn check_replaced(moved: &Object, replaced: &Object) -> Result<(), ExportError> {
        match (&moved.state.read().body, &replaced.state.read().body) {
            (Body::Directory(_), Body::Directory(entries)) if entries.names.is_empty() => Ok(()),
            (Body::Directory(_), Body::Directory(_)) => Err(ExportError::NotEmpty),
            (Body::Directory(_), _) => Err(ExportError::NotDirectory),
            (_, Body::Directory(_)) => Err(ExportError::IsDirectory),
            _ => Ok(()),
        }
    }
}

impl Default for MemoryTree {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryTree {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryTree")
            .field("objects", &self.objects.read().len())
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

impl FileExport for MemoryTree {
    fn root(&self) -> FileId {
        ROOT
    }

    fn statistics(&self) -> Result<Statistics, ExportError> {
        let free_bytes = self.space.capacity_bytes - self.space.used_bytes.load(Ordering::Relaxed);
        let used_files = self.objects.read().len() as u64;
        Ok(Statistics {
            total_bytes: self.space.capacity_bytes,
            free_bytes,
            available_bytes: free_bytes,
            total_files: FILES_MAX,
            free_files: FILES_MAX.saturating_sub(used_files),
        })
    }

    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError> {
        Ok(self.object(file)?.state.read().attributes(file))
    }

    fn set_attributes(
        &self,
        _caller: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        let object = self.object(file)?;
        let mut state = object.state.write();
        state.change(change, &self.space, self.clock.now())?;
        Ok(state.attributes(file))
    }

    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let names = self.objects.read();
        let object = names.get(&directory).ok_or(ExportError::Stale)?;
        let state = object.state.read();
        let entries = state.directory()?;
        match name {
            b"." => Ok(directory),
            b".." => Ok(entries.parent),
            _ => {
                check_name(name)?;
                entries.find(name).ok_or(ExportError::NotFound)
            }
        }
    }

    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError> {
        let object = self.object(file)?;
        let state = object.state.read();
        let content = state.content()?;
        let length = u64::from(length).min(content.size_bytes.saturating_sub(offset));
        Ok(FileRead {
            data: content.read(offset, length),
            end: offset.saturating_add(length) >= content.size_bytes,
            attributes: Some(state.attributes(file)),
        })
    }

    fn read_cached(
        &self,
        file: FileId,
        offset: u64,
        length: u32,
    ) -> Option<Result<FileRead, ExportError>> {
        Some(self.read(file, offset, length))
    }

    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        let object = self.object(file)?;
        let mut state = object.state.write();
        state
            .live()?
            .content_mut()?
            .write(offset, data, &self.space)?;
        state.touch(self.clock.now());
        Ok(Written {
            durability,
            attributes: state.attributes(file),
        })
    }

    fn try_write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
    ) -> Option<Result<Written, ExportError>> {
        Some(self.write(file, offset, data, Durability::Unstable))
    }

    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.attributes(file)
    }

    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let names = self.objects.read();
        let object = find(&names, directory)?;
        let state = object.state.read();
        let entries = state.directory()?.entries.range(cookie.saturating_add(1)..);
        entries
            .take(limit)
            .map(|(cookie, (name, file))| {
                let attributes = find(&names, *file)?.state.read().attributes(*file);
                Ok(DirectoryEntry {
                    file: *file,
                    name: name.clone(),
                    cookie: *cookie,
                    attributes,
                })
            })
            .collect()
    }

    fn create(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let mut names = self.objects.write();
        let parent = find(&names, directory)?;
        let there = look_for(&parent, name)?;
        let Some(file) = there else {
            let verifier = match mode {
                CreateMode::Exclusive(verifier) => Some(verifier),
                CreateMode::Unchecked | CreateMode::Guarded => None,
            };
            let body = Body::File(Content {
                verifier,
                ..Content::default()
            });
            return self.add(&mut names, caller, &parent, name, body, attributes);
        };
        let object = find(&names, file)?;
        let mut state = object.state.write();
        let Body::File(content) = &state.body else {
            return Err(ExportError::Exists);
        };
        match mode {
            CreateMode::Unchecked => {
                // As open(2) with O_CREAT: what is there keeps its mode and owner.
                let change = SetAttributes {
                    size_bytes: attributes.size_bytes,
                    ..SetAttributes::default()
                };
                state.change(&change, &self.space, self.clock.now())?;
            }
            CreateMode::Exclusive(verifier) if content.verifier == Some(verifier) => {}
            CreateMode::Guarded | CreateMode::Exclusive(_) => return Err(ExportError::Exists),
        }
        Ok(Created {
            file,
            attributes: state.attributes(file),
        })
    }

    fn create_directory(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let mut names = self.objects.write();
        let parent = find(&names, directory)?;
        if look_for(&parent, name)?.is_some() {
            return Err(ExportError::Exists);
        }
        let attributes = SetAttributes {
            size_bytes: None,
            ..*attributes
        };
        let body = Body::Directory(Directory::new(directory));
        self.add(&mut names, caller, &parent, name, body, &attributes)
    }

    fn create_symlink(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        target: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let mut names = self.objects.write();
        let parent = find(&names, directory)?;
        if look_for(&parent, name)?.is_some() {
            return Err(ExportError::Exists);
        }
        let attributes = SetAttributes {
            size_bytes: None,
            ..*attributes
        };
        let body = Body::Symlink(target.to_vec());
        self.add(&mut names, caller, &parent, name, body, &attributes)
    }

    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        match &self.object(file)?.state.read().body {
            Body::Symlink(target) => Ok(target.clone()),
            Body::File(_) | Body::Directory(_) => Err(ExportError::Invalid),
        }
    }

    fn has_hard_links(&self) -> bool {
        true
    }

    fn link(
        &self,
        _caller: &Caller,
        file: FileId,
        directory: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        let names = self.objects.write();
        let parent = find(&names, directory)?;
        let object = find(&names, file)?;
        if matches!(object.state.read().body, Body::Directory(_)) {
            return Err(ExportError::IsDirectory);
        }
        if look_for(&parent, name)?.is_some() {
            return Err(ExportError::Exists);
        }
        let now = self.clock.now();
        {
            let mut state = object.state.write();
            state.links = state.links.checked_add(1).ok_or(ExportError::Invalid)?;
            state.changed = now;
        }
        let mut parent = parent.state.write();
        parent.directory_mut()?.insert(name, file);
        parent.touch(now);
        Ok(())
    }

    fn remove(&self, _caller: &Caller, directory: FileId, name: &[u8]) -> Result<(), ExportError> {
        self.remove_kind(directory, name, Wanted::Other)
    }

    fn remove_directory(
        &self,
        _caller: &Caller,
        directory: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        self.remove_kind(directory, name, Wanted::Directory)
    }

    fn rename(
        &self,
        _caller: &Caller,
        from_directory: FileId,
        from: &[u8],
        to_directory: FileId,
        to: &[u8],
    ) -> Result<(), ExportError> {
        check_name(from)?;
        check_name(to)?;
        let mut names = self.objects.write();
        let old_parent = find(&names, from_directory)?;
        let new_parent = find(&names, to_directory)?;
        let file = old_parent
            .state
            .read()
            .directory()?
            .find(from)
            .ok_or(ExportError::NotFound)?;
        let replaced = new_parent.state.read().directory()?.find(to);
        if replaced == Some(file) {
            return Ok(());
        }
        let object = find(&names, file)?;
        let is_directory = matches!(object.state.read().body, Body::Directory(_));
        if is_directory && Self::is_below(&names, to_directory, file)? {
            return Err(ExportError::Invalid);
        }
        if let Some(replaced) = replaced {
            Self::check_replaced(&object, &*find(&names, replaced)?)?;
        }
        let now = self.clock.now();
        {
            let mut parent = old_parent.state.write();
            parent.directory_mut()?.remove(from);
            parent.links -= u32::from(is_directory);
            parent.touch(now);
        }
        {
            let mut parent = new_parent.state.write();
            parent.directory_mut()?.remove(to);
            parent.directory_mut()?.insert(to, file);
            parent.links += u32::from(is_directory);
            parent.links -= u32::from(is_directory && replaced.is_some());
            parent.touch(now);
        }
        if let Some(replaced) = replaced {
            self.drop_name(&mut names, replaced, now);
        }
        let mut state = object.state.write();
        state.changed = now;
        if let Body::Directory(entries) = &mut state.body {
            entries.parent = to_directory;
        }
        Ok(())
    }
}

type Names<'a> = RwLockWriteGuard<'a, HashMap<FileId, Arc<Object>>>;

/// Which kind of object a removal is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Directory,
    Other,
}

fn find(names: &HashMap<FileId, Arc<Object>>, file: FileId) -> Result<Arc<Object>, ExportError> {
    names.get(&file).cloned().ok_or(ExportError::Stale)
}

/// The object under a name that somebody wants to make.
fn look_for(parent: &Object, name: &[u8]) -> Result<Option<FileId>, ExportError> {
    let state = parent.state.read();
    let entries = state.directory()?;
    if matches!(name, b"." | b"..") {
        return Err(ExportError::Exists);
    }
    check_name(name)?;
    Ok(entries.find(name))
}

fn check_name(name: &[u8]) -> Result<(), ExportError> {
    match name {
        _ if name.len() > NAME_MAX => Err(ExportError::NameTooLong),
        b"" => Err(ExportError::BadName),
        b"." | b".." => Err(ExportError::Invalid),
        _ if name.contains(&b'/') || name.contains(&0) => Err(ExportError::BadName),
        _ => Ok(()),
    }
}

const ROOT: FileId = FileId(1);
const FILES_MAX: u64 = 1 << 32;
const NAME_MAX: usize = 255;
const MODE_MASK: u32 = 0o7777;
const SET_GROUP: u32 = 0o2000;
