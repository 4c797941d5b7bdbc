//! All objects of the folder in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use export::{DirectoryEntry, ExportError, FileId};
use parking_lot::Mutex;
use repo::clock::UnixNanoseconds;

use super::log::{Change, Kind, Name, VERSION, file_id};
use super::node::{Body, DiskKey, Entries, Node, NodeState};

/// The table. Changes come in by [`apply`](Table::apply) only, both when they happen and when the log is replayed.
#[derive(Debug)]
pub(super) struct Table {
    nodes: BTreeMap<FileId, Arc<Node>>,
    next: u64,
}

/// The folder itself.
pub(super) const ROOT: FileId = FileId(16);

impl Table {
    /// An empty folder.
    pub(super) fn new(now: UnixNanoseconds) -> Self {
        let state = NodeState {
            parent: ROOT,
            name: Vec::new(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            size_bytes: DIRECTORY_BYTES,
            used_bytes: DIRECTORY_BYTES,
            accessed: now,
            modified: now,
            changed: now,
            folders: 0,
        };
        let root = Node::new(ROOT, Body::Directory(Mutex::default()), state);
        Self {
            nodes: BTreeMap::from([(ROOT, Arc::new(root))]),
            next: ROOT.0 + 1,
        }
    }

    pub(super) fn node(&self, file: FileId) -> Result<Arc<Node>, ExportError> {
        self.nodes.get(&file).cloned().ok_or(ExportError::Stale)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Objects besides the folder itself.
    pub(super) fn count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The id for the next new object.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError> {
        let node = self.node(directory)?;
        let Body::Directory(entries) = node.body() else {
            return Err(ExportError::NotDirectory);
        };
        match name {
            b"." => Ok(directory),
            b".." => Ok(node.state().parent),
            _ => {
                check_name(name)?;
                entries
                    .lock()
                    .by_name
                    .get(name)
                    .copied()
                    .ok_or(ExportError::NotFound)
            }
        }
    }

    pub(super) fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError> {
        let node = self.node(directory)?;
        let Body::Directory(entries) = node.body() else {
            return Err(ExportError::NotDirectory);
        };
        let ids: Vec<FileId> = entries
            .lock()
            .by_id
            .range(FileId(cookie.saturating_add(1))..)
            .take(limit)
            .copied()
            .collect();
        ids.into_iter()
            .map(|file| {
                let child = self.node(file)?;
                let name = child.state().name.clone();
                Ok(DirectoryEntry {
                    file,
                    name,
                    cookie: file.0,
                    attributes: child.attributes(),
                })
            })
            .collect()
    }

    /// Whether `file` is `above` or lies somewhere below it.
    pub(super) fn is_below(&self, mut file: FileId, above: FileId) -> bool {
        while file != above {
            match self.nodes.get(&file) {
                Some(node) if file != ROOT => file = node.state().parent,
                _ => return false,
            }
        }
        true
    }

    /// The file of a disk.
    pub(super) fn disk(&self, key: DiskKey) -> Option<&Arc<Node>> {
        self.nodes
            .values()
            .find(|node| matches!(node.body(), Body::Disk(disk) if *disk == key))
    }

    /// The change that makes the file of a disk.
    pub(super) fn new_disk(&self, key: DiskKey, now: UnixNanoseconds) -> Change {
        let DiskKey { number, format } = key;
        let kind = Kind::Disk { number, format };
        self.new_file(&format.data_name(number), kind, now)
    }

    /// The change that makes a file in the folder itself.
    pub(super) fn new_file(&self, name: &str, kind: Kind, now: UnixNanoseconds) -> Change {
        Change::Create {
            file: self.next,
            parent: ROOT.0,
            name: Name::new(name.as_bytes()),
            kind,
            mode: 0o600,
            uid: 0,
            gid: 0,
            time: now.0,
        }
    }

    /// Notes a disk's size, and that it may have been written by `now`.
    pub(super) fn set_disk(&self, key: DiskKey, size_bytes: u64, now: UnixNanoseconds) {
        if let Some(node) = self.disk(key) {
            let mut state = node.state();
            state.size_bytes = size_bytes;
            state.used_bytes = size_bytes;
            state.touch(now);
        }
    }

    /// Does what the change says. What makes no sense is left out: the log was checked before it was written.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Header { next, .. } => self.next = self.next.max(*next),
            Change::Create { .. } => self.insert(change),
            Change::Remove { file, time } => self.remove(file_id(*file), UnixNanoseconds(*time)),
            Change::Rename {
                file,
                parent,
                name,
                replaced,
                time,
            } => {
                let time = UnixNanoseconds(*time);
                if let Some(replaced) = replaced {
                    self.remove(file_id(*replaced), time);
                }
                self.rename(file_id(*file), file_id(*parent), name.bytes(), time);
            }
            Change::Attributes {
                file,
                mode,
                uid,
                gid,
                accessed,
                modified,
                time,
            } => {
                if let Some(node) = self.nodes.get(&file_id(*file)) {
                    let mut state = node.state();
                    (state.mode, state.uid, state.gid) = (*mode, *uid, *gid);
                    (state.accessed, state.modified) =
                        (UnixNanoseconds(*accessed), UnixNanoseconds(*modified));
                    state.changed = state.changed.max(UnixNanoseconds(*time));
                }
            }
        }
    }

    /// The shortest log that gives this table.
    pub(super) fn snapshot(&self) -> Vec<Change> {
        let mut changes = vec![Change::Header {
            version: VERSION,
            next: self.next,
        }];
        // Folders before what is in them; attributes last, because each new name moves its folder's times.
        let mut waiting = vec![ROOT];
        while let Some(file) = waiting.pop() {
            let Some(node) = self.nodes.get(&file) else {
                continue;
            };
            if file != ROOT {
                changes.push(create_of(node));
            }
            if let Body::Directory(entries) = node.body() {
                waiting.extend(entries.lock().by_id.iter());
            }
        }
        changes.extend(self.nodes.values().map(|node| attributes_of(node)));
        changes
    }

    fn insert(&mut self, change: &Change) {
        let Change::Create {
            file,
            parent,
            name,
            kind,
            mode,
            uid,
            gid,
            time,
        } = change
        else {
            return;
        };
        let (file, parent, time) = (file_id(*file), file_id(*parent), UnixNanoseconds(*time));
        self.next = self.next.max(file.0.saturating_add(1));
        let (body, size_bytes) = match kind {
            Kind::File { verifier } => (
                Body::File {
                    verifier: *verifier,
                },
                0,
            ),
            Kind::Directory => (Body::Directory(Mutex::default()), DIRECTORY_BYTES),
            Kind::Symlink { target } => {
                let target = target.bytes();
                let length = target.len() as u64;
                (Body::Symlink(target), length)
            }
            Kind::Disk { number, format } => (
                Body::Disk(DiskKey {
                    number: *number,
                    format: *format,
                }),
                0,
            ),
        };
        let state = NodeState {
            parent,
            name: name.bytes(),
            mode: *mode,
            uid: *uid,
            gid: *gid,
            size_bytes,
            used_bytes: size_bytes.next_multiple_of(512),
            accessed: time,
            modified: time,
            changed: time,
            folders: 0,
        };
        let is_directory = matches!(body, Body::Directory(_));
        self.enter(parent, name.bytes(), file, is_directory, time);
        self.nodes
            .insert(file, Arc::new(Node::new(file, body, state)));
    }

    fn remove(&mut self, file: FileId, time: UnixNanoseconds) {
        let Some(node) = self.nodes.remove(&file) else {
            return;
        };
        let (parent, name) = {
            let state = node.state();
            (state.parent, state.name.clone())
        };
        self.leave(
            parent,
            &name,
            file,
            matches!(node.body(), Body::Directory(_)),
            time,
        );
    }

    fn rename(&mut self, file: FileId, parent: FileId, name: Vec<u8>, time: UnixNanoseconds) {
        let Some(node) = self.nodes.get(&file).cloned() else {
            return;
        };
        let (old_parent, old_name) = {
            let mut state = node.state();
            let old = (
                state.parent,
                std::mem::replace(&mut state.name, name.clone()),
            );
            state.parent = parent;
            state.touch_attributes(time);
            old
        };
        let is_directory = matches!(node.body(), Body::Directory(_));
        self.leave(old_parent, &old_name, file, is_directory, time);
        self.enter(parent, name, file, is_directory, time);
    }

    fn enter(
        &self,
        parent: FileId,
        name: Vec<u8>,
        file: FileId,
        is_directory: bool,
        time: UnixNanoseconds,
    ) {
        self.change_entries(parent, time, |entries, folders| {
            entries.by_name.insert(name, file);
            entries.by_id.insert(file);
            folders + u32::from(is_directory)
        });
    }

    fn leave(
        &self,
        parent: FileId,
        name: &[u8],
        file: FileId,
        is_directory: bool,
        time: UnixNanoseconds,
    ) {
        self.change_entries(parent, time, |entries, folders| {
            entries.by_name.remove(name);
            entries.by_id.remove(&file);
            folders.saturating_sub(u32::from(is_directory))
        });
    }

    fn change_entries(
        &self,
        parent: FileId,
        time: UnixNanoseconds,
        change: impl FnOnce(&mut Entries, u32) -> u32,
    ) {
        if let Some(node) = self.nodes.get(&parent)
            && let Body::Directory(entries) = node.body()
        {
            let mut state = node.state();
            state.folders = change(&mut entries.lock(), state.folders);
            state.touch(time);
        }
    }
}

/// Refuses what no name may be.
pub(super) fn check_name(name: &[u8]) -> Result<(), ExportError> {
    match name {
        b"" | b"." | b".." => Err(ExportError::BadName),
        name if name.len() > NAME_BYTES_MAX => Err(ExportError::NameTooLong),
        name if name.iter().any(|&byte| byte == b'/' || byte == 0) => Err(ExportError::BadName),
        _ => Ok(()),
    }
}

fn create_of(node: &Node) -> Change {
    let state = node.state();
    let kind = match node.body() {
        Body::File { verifier } => Kind::File {
            verifier: *verifier,
        },
        Body::Directory(_) => Kind::Directory,
        Body::Symlink(target) => Kind::Symlink {
            target: Name::new(target),
        },
        Body::Disk(DiskKey { number, format }) => Kind::Disk {
            number: *number,
            format: *format,
        },
    };
    Change::Create {
        file: node.file().0,
        parent: state.parent.0,
        name: Name::new(&state.name),
        kind,
        mode: state.mode,
        uid: state.uid,
        gid: state.gid,
        time: state.modified.0,
    }
}

fn attributes_of(node: &Node) -> Change {
    let state = node.state();
    Change::Attributes {
        file: node.file().0,
        mode: state.mode,
        uid: state.uid,
        gid: state.gid,
        accessed: state.accessed.0,
        modified: state.modified.0,
        time: state.changed.0,
    }
}

/// What a folder's size is said to be.
const DIRECTORY_BYTES: u64 = 4096;
const NAME_BYTES_MAX: usize = 255;
