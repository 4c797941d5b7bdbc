//! What a tree is made of: files, folders and symbolic links with their attributes.

use std::collections::{BTreeMap, HashMap};

use parking_lot::RwLock;

use super::MODE_MASK;
use super::content::{BLOCK_BYTES, Content, Space};
use crate::{Attributes, ExportError, FileId, FileKind, SetAttributes, TimeChange, Timestamp};

pub(super) struct Object {
    pub(super) state: RwLock<State>,
}

pub(super) struct State {
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) accessed: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) changed: Timestamp,
    pub(super) body: Body,
}

pub(super) enum Body {
    File(Content),
    Directory(Directory),
    Symlink(Vec<u8>),
}

pub(super) struct Directory {
    pub(super) parent: FileId,
    pub(super) names: HashMap<Vec<u8>, u64>,
    pub(super) entries: BTreeMap<u64, (Vec<u8>, FileId)>,
    pub(super) next_cookie: u64,
}

impl Object {
    pub(super) fn new(
        file: FileId,
        body: Body,
        mode: u32,
        uid: u32,
        gid: u32,
        now: Timestamp,
    ) -> Self {
        debug_assert!(file.0 != 0, "0 names nothing");
        let links = if matches!(body, Body::Directory(_)) {
            2
        } else {
            1
        };
        let (accessed, modified, changed) = (now, now, now);
        Self {
            state: RwLock::new(State {
                mode,
                links,
                uid,
                gid,
                accessed,
                modified,
                changed,
                body,
            }),
        }
    }
}

impl State {
    pub(super) fn touch(&mut self, now: Timestamp) {
        self.modified = now;
        self.changed = now;
    }

    pub(super) fn change(
        &mut self,
        change: &SetAttributes,
        space: &Space,
        now: Timestamp,
    ) -> Result<(), ExportError> {
        if let Some(size_bytes) = change.size_bytes {
            self.live()?.content_mut()?.resize(size_bytes, space)?;
            self.modified = now;
        }
        let time = |wanted: TimeChange| match wanted {
            TimeChange::Now => now,
            TimeChange::To(time) => time,
        };
        self.mode = change.mode.map_or(self.mode, |mode| mode & MODE_MASK);
        self.uid = change.uid.unwrap_or(self.uid);
        self.gid = change.gid.unwrap_or(self.gid);
        self.accessed = change.accessed.map_or(self.accessed, time);
        self.modified = change.modified.map_or(self.modified, time);
        self.changed = now;
        Ok(())
    }

    /// Refuses to give space to a file whose last name went while the caller waited for the lock.
    pub(super) fn live(&mut self) -> Result<&mut Self, ExportError> {
        if self.links == 0 {
            Err(ExportError::Stale)
        } else {
            Ok(self)
        }
    }

    pub(super) fn content_mut(&mut self) -> Result<&mut Content, ExportError> {
        match &mut self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(ExportError::IsDirectory),
            Body::Symlink(_) => Err(ExportError::Invalid),
        }
    }

    pub(super) fn directory_mut(&mut self) -> Result<&mut Directory, ExportError> {
        match &mut self.body {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) | Body::Symlink(_) => Err(ExportError::NotDirectory),
        }
    }

    pub(super) fn content(&self) -> Result<&Content, ExportError> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(ExportError::IsDirectory),
            Body::Symlink(_) => Err(ExportError::Invalid),
        }
    }

    pub(super) fn directory(&self) -> Result<&Directory, ExportError> {
        match &self.body {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) | Body::Symlink(_) => Err(ExportError::NotDirectory),
        }
    }

    pub(super) fn attributes(&self, file: FileId) -> Attributes {
        let (kind, size_bytes, used_bytes) = match &self.body {
            Body::File(content) => (
                FileKind::File,
                content.size_bytes,
                content.blocks.len() as u64 * BLOCK_BYTES,
            ),
            Body::Directory(entries) => (
                FileKind::Directory,
                4096 + 32 * entries.names.len() as u64,
                4096,
            ),
            Body::Symlink(target) => (FileKind::Symlink, target.len() as u64, 0),
        };
        Attributes {
            file,
            kind,
            mode: self.mode,
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            size_bytes,
            used_bytes,
            accessed: self.accessed,
            modified: self.modified,
            changed: self.changed,
        }
    }
}

impl Body {
    pub(super) fn default_mode(&self) -> u32 {
        match self {
            Self::File(_) => 0o644,
            Self::Directory(_) => 0o755,
            Self::Symlink(_) => 0o777,
        }
    }
}

impl Directory {
    pub(super) fn new(parent: FileId) -> Self {
        Self {
            parent,
            names: HashMap::new(),
            entries: BTreeMap::new(),
            next_cookie: FIRST_COOKIE,
        }
    }

    pub(super) fn insert(&mut self, name: &[u8], file: FileId) {
        self.names.insert(name.to_vec(), self.next_cookie);
        self.entries.insert(self.next_cookie, (name.to_vec(), file));
        self.next_cookie += 1;
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        if let Some(cookie) = self.names.remove(name) {
            self.entries.remove(&cookie);
        }
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<FileId> {
        let cookie = self.names.get(name)?;
        self.entries.get(cookie).map(|(_, file)| *file)
    }
}

pub(super) const FIRST_COOKIE: u64 = 16;
