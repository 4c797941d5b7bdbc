//! One object in the folder.

use std::collections::{BTreeMap, BTreeSet};

use export::{Attributes, FileId, FileKind, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use repo::clock::UnixNanoseconds;

use super::super::DiskFormat;

/// One object. Its body never changes kind; names of a folder live in the table's lock.
#[derive(Debug)]
pub(super) struct Node {
    file: FileId,
    body: Body,
    state: Mutex<NodeState>,
    content_order: Mutex<()>,
}

/// What an object is.
#[derive(Debug)]
pub(super) enum Body {
    /// A small file, with the verifier of the EXCLUSIVE create that made it.
    File { verifier: Option<[u8; 8]> },
    /// A folder.
    Directory(Mutex<Entries>),
    /// A link.
    Symlink(Vec<u8>),
    /// A disk of the session, in some format.
    Disk(DiskKey),
}

/// Which disk, and in which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskKey {
    pub(super) number: usize,
    pub(super) format: DiskFormat,
}

/// What a client can make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Made {
    File { verifier: Option<[u8; 8]> },
    Directory,
    Symlink(Vec<u8>),
}

/// Names in a folder. Listings go by id, which never changes while an object lives.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) by_name: BTreeMap<Vec<u8>, FileId>,
    pub(super) by_id: BTreeSet<FileId>,
}

/// What changes about an object.
#[derive(Debug, Clone)]
pub(super) struct NodeState {
    /// The folder that holds it; the root's is the root.
    pub(super) parent: FileId,
    /// Its name there.
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size_bytes: u64,
    /// Space that the content takes; less than the size where it has holes.
    pub(super) used_bytes: u64,
    pub(super) accessed: UnixNanoseconds,
    pub(super) modified: UnixNanoseconds,
    pub(super) changed: UnixNanoseconds,
    /// Folders in it, for the link count.
    pub(super) folders: u32,
}

impl Node {
    pub(super) fn new(file: FileId, body: Body, state: NodeState) -> Self {
        Self {
            file,
            body,
            state: Mutex::new(state),
            content_order: Mutex::new(()),
        }
    }

    pub(super) fn file(&self) -> FileId {
        self.file
    }

    pub(super) fn body(&self) -> &Body {
        &self.body
    }

    pub(super) fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock()
    }

    pub(super) fn size(&self) -> u64 {
        self.state.lock().size_bytes
    }

    /// Length of the content, and the space it takes.
    pub(super) fn extent(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.size_bytes, state.used_bytes)
    }

    /// Holds off other changes of the content's length.
    pub(super) fn lock_content(&self) -> MutexGuard<'_, ()> {
        self.content_order.lock()
    }

    pub(super) fn attributes(&self) -> Attributes {
        let state = self.state.lock();
        let (kind, links) = match &self.body {
            Body::File { .. } | Body::Disk(_) => (FileKind::File, 1),
            Body::Directory(_) => (FileKind::Directory, 2 + state.folders),
            Body::Symlink(_) => (FileKind::Symlink, 1),
        };
        Attributes {
            file: self.file,
            kind,
            mode: state.mode,
            links,
            uid: state.uid,
            gid: state.gid,
            size_bytes: state.size_bytes,
            used_bytes: state.used_bytes,
            accessed: timestamp(state.accessed),
            modified: timestamp(state.modified),
            changed: timestamp(state.changed),
        }
    }

    /// Notes a write that ended at `end`, and gives the attributes after it.
    pub(super) fn wrote(&self, end: u64, now: UnixNanoseconds) -> Attributes {
        {
            let mut state = self.state.lock();
            state.size_bytes = state.size_bytes.max(end);
            state.touch(now);
        }
        self.attributes()
    }
}

impl NodeState {
    /// Content changed. Times always move, even if the clock stands still or went back.
    pub(super) fn touch(&mut self, now: UnixNanoseconds) {
        self.modified = later(self.modified, now);
        self.changed = later(self.changed, now);
    }

    /// Attributes changed.
    pub(super) fn touch_attributes(&mut self, now: UnixNanoseconds) {
        self.changed = later(self.changed, now);
    }
}

pub(crate) fn timestamp(time: UnixNanoseconds) -> Timestamp {
    let nanoseconds = u32::try_from(time.0 % SECOND).expect("the rest is below one second");
    Timestamp {
        seconds: time.0 / SECOND,
        nanoseconds,
    }
}

pub(super) fn from_timestamp(time: Timestamp) -> UnixNanoseconds {
    UnixNanoseconds(
        time.seconds
            .saturating_mul(SECOND)
            .saturating_add(time.nanoseconds.into()),
    )
}

fn later(before: UnixNanoseconds, now: UnixNanoseconds) -> UnixNanoseconds {
    UnixNanoseconds(now.0.max(before.0.saturating_add(1)))
}

const SECOND: u64 = 1_000_000_000;
