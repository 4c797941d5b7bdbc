//! Changes of names and attributes: checked, made durable, then shown.

use std::sync::Arc;

use export::{
    Attributes, Caller, CreateMode, Created, ExportError, FileId, SetAttributes, TimeChange,
};
use repo::clock::UnixNanoseconds;

use super::SessionFolder;
use super::log::{Change, Kind, Log, Name};
use super::node::{Body, Made, Node, from_timestamp};
use super::table::check_name;

/// What a removal expects under the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Directory,
    NotDirectory,
}

impl SessionFolder {
    pub(super) fn create_file(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        check_name(name)?;
        let mut log = self.changes.lock();
        let there = match self.table.read().lookup(directory, name) {
            Ok(file) => Some(file),
            Err(ExportError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if let Some(file) = there {
            drop(log);
            return self.create_over(file, mode, attributes);
        }
        let verifier = match mode {
            CreateMode::Exclusive(verifier) => Some(verifier),
            CreateMode::Unchecked | CreateMode::Guarded => None,
        };
        let file = FileId(self.table.read().next());
        self.check_room()?;
        self.content.create(file)?;
        self.add(
            &mut log,
            caller,
            (directory, name),
            Made::File { verifier },
            attributes,
        )?;
        drop(log);
        match attributes.size_bytes {
            Some(size) if size > 0 => {
                let only_size = SetAttributes {
                    size_bytes: Some(size),
                    ..SetAttributes::default()
                };
                let attributes = self.change_attributes(file, &only_size)?;
                Ok(Created { file, attributes })
            }
            _ => Ok(Created {
                file,
                attributes: self.node(file)?.attributes(),
            }),
        }
    }

    pub(super) fn create_other(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        made: Made,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        check_name(name)?;
        let mut log = self.changes.lock();
        match self.table.read().lookup(directory, name) {
            Ok(_) => return Err(ExportError::Exists),
            Err(ExportError::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.check_room()?;
        let file = self.add(&mut log, caller, (directory, name), made, attributes)?;
        Ok(Created {
            file,
            attributes: self.node(file)?.attributes(),
        })
    }

    pub(super) fn change_attributes(
        &self,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        let node = self.node(file)?;
        if let Some(size) = change.size_bytes {
            self.change_size(&node, size)?;
        }
        let only_size = SetAttributes {
            size_bytes: change.size_bytes,
            ..SetAttributes::default()
        };
        if *change == only_size {
            return Ok(node.attributes());
        }
        let mut log = self.changes.lock();
        self.table.read().node(file)?;
        let now = self.clock.now();
        let record = changed_attributes(&node, change, now);
        self.log(&mut log, &record)?;
        self.table.write().apply(&record);
        if matches!(node.body(), Body::File { .. }) && change.modified.is_some() {
            let modified = node.state().modified;
            self.content.set_modified(file, modified)?;
        }
        Ok(node.attributes())
    }

    pub(super) fn remove_name(
        &self,
        directory: FileId,
        name: &[u8],
        wanted: Wanted,
    ) -> Result<(), ExportError> {
        check_name(name)?;
        let mut log = self.changes.lock();
        let file = self.table.read().lookup(directory, name)?;
        let node = self.node(file)?;
        match (node.body(), wanted) {
            (Body::Directory(_), Wanted::NotDirectory) => return Err(ExportError::IsDirectory),
            (Body::Directory(entries), Wanted::Directory) if !entries.lock().by_id.is_empty() => {
                return Err(ExportError::NotEmpty);
            }
            (Body::Directory(_), Wanted::Directory) => {}
            (_, Wanted::Directory) => return Err(ExportError::NotDirectory),
            // A disk goes with its session, never by a name.
            (Body::Disk(_), _) => return Err(ExportError::NotPermitted),
            _ => {}
        }
        let change = Change::Remove {
            file: file.0,
            time: self.clock.now().0,
        };
        self.log(&mut log, &change)?;
        self.table.write().apply(&change);
        drop(log);
        self.forget(&node);
        Ok(())
    }

    pub(super) fn move_name(
        &self,
        from: (FileId, &[u8]),
        to: (FileId, &[u8]),
    ) -> Result<(), ExportError> {
        check_name(from.1)?;
        check_name(to.1)?;
        let mut log = self.changes.lock();
        let (node, replaced) = {
            let table = self.table.read();
            let file = table.lookup(from.0, from.1)?;
            let replaced = match table.lookup(to.0, to.1) {
                Ok(replaced) => Some(replaced),
                Err(ExportError::NotFound) => None,
                Err(error) => return Err(error),
            };
            if replaced == Some(file) {
                return Ok(());
            }
            let node = table.node(file)?;
            if matches!(node.body(), Body::Directory(_)) && table.is_below(to.0, file) {
                return Err(ExportError::Invalid);
            }
            (
                node,
                replaced.map(|replaced| table.node(replaced)).transpose()?,
            )
        };
        if let Some(replaced) = &replaced {
            check_replaced(&node, replaced)?;
        }
        let change = Change::Rename {
            file: node.file().0,
            parent: to.0.0,
            name: Name::new(to.1),
            replaced: replaced.as_ref().map(|replaced| replaced.file().0),
            time: self.clock.now().0,
        };
        self.log(&mut log, &change)?;
        self.table.write().apply(&change);
        drop(log);
        if let Some(replaced) = replaced {
            self.forget(&replaced);
        }
        Ok(())
    }

    /// A create where the name is taken.
    fn create_over(
        &self,
        file: FileId,
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let node = self.node(file)?;
        let same_verifier = |given: [u8; 8]| matches!(node.body(), Body::File { verifier: Some(kept) } if *kept == given);
        match mode {
            CreateMode::Exclusive(verifier) if same_verifier(verifier) => {}
            CreateMode::Unchecked if matches!(node.body(), Body::File { .. } | Body::Disk(_)) => {
                // As open(2) with O_CREAT: what is there keeps its mode and owner.
                if let Some(size) = attributes.size_bytes {
                    self.change_size(&node, size)?;
                }
            }
            _ => return Err(ExportError::Exists),
        }
        Ok(Created {
            file,
            attributes: node.attributes(),
        })
    }

    fn add(
        &self,
        log: &mut Log,
        caller: &Caller,
        place: (FileId, &[u8]),
        made: Made,
        attributes: &SetAttributes,
    ) -> Result<FileId, ExportError> {
        let file = FileId(self.table.read().next());
        let default_mode = match made {
            Made::File { .. } => 0o644,
            Made::Directory => 0o755,
            Made::Symlink(_) => 0o777,
        };
        let now = self.clock.now();
        let create = Change::Create {
            file: file.0,
            parent: place.0.0,
            name: Name::new(place.1),
            kind: Kind::of(&made),
            mode: attributes.mode.unwrap_or(default_mode) & MODE_MASK,
            uid: attributes.uid.unwrap_or(caller.uid),
            gid: attributes.gid.unwrap_or(caller.gid),
            time: now.0,
        };
        self.log(log, &create)?;
        self.table.write().apply(&create);
        if attributes.accessed.is_some() || attributes.modified.is_some() {
            let node = self.node(file)?;
            let times = SetAttributes {
                accessed: attributes.accessed,
                modified: attributes.modified,
                ..SetAttributes::default()
            };
            let change = changed_attributes(&node, &times, now);
            self.log(log, &change)?;
            self.table.write().apply(&change);
            if matches!(node.body(), Body::File { .. }) {
                let modified = node.state().modified;
                self.content.set_modified(file, modified)?;
            }
        }
        Ok(file)
    }

    fn change_size(&self, node: &Arc<Node>, size: u64) -> Result<(), ExportError> {
        match node.body() {
            Body::File { .. } => {}
            // A disk keeps its size; saying it again is harmless.
            Body::Disk(_) if node.size() == size => return Ok(()),
            Body::Disk(_) => return Err(ExportError::NotPermitted),
            Body::Directory(_) => return Err(ExportError::IsDirectory),
            Body::Symlink(_) => return Err(ExportError::Invalid),
        }
        if size > super::FILE_BYTES_MAX {
            return Err(ExportError::TooLarge);
        }
        let _order = node.lock_content();
        let (_, used) = node.extent();
        let after = self.content.set_length(node.file(), size)?;
        self.content.settle(used, after);
        let mut state = node.state();
        state.size_bytes = size;
        state.used_bytes = after;
        state.touch(self.clock.now());
        Ok(())
    }

    /// Frees what a removed object took.
    fn forget(&self, node: &Node) {
        if matches!(node.body(), Body::File { .. }) {
            let _order = node.lock_content();
            self.content.remove(node.file(), node.extent().1);
        }
    }

    fn check_room(&self) -> Result<(), ExportError> {
        let (count, limit) = (self.table.read().count(), self.limits.files);
        if count < limit {
            return Ok(());
        }
        let detail =
            format!("the session has {count} of {limit} files and folders (recovery.files)");
        Err(ExportError::NoSpace {
            detail: detail.into(),
        })
    }

    fn log(&self, log: &mut Log, change: &Change) -> Result<(), ExportError> {
        log.shorten(&self.table.read());
        log.append(change).map_err(|error| {
            let detail = format!("cannot make a change of names durable: {error}").into();
            match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ExportError::NoSpace { detail }
                }
                _ => ExportError::Storage { detail },
            }
        })
    }
}

/// The record of an object's attributes after `change`.
fn changed_attributes(node: &Node, change: &SetAttributes, now: UnixNanoseconds) -> Change {
    let state = node.state();
    let time = |change: Option<TimeChange>, before: UnixNanoseconds| match change {
        None => before.0,
        Some(TimeChange::Now) => now.0,
        Some(TimeChange::To(time)) => from_timestamp(time).0,
    };
    Change::Attributes {
        file: node.file().0,
        mode: change.mode.unwrap_or(state.mode) & MODE_MASK,
        uid: change.uid.unwrap_or(state.uid),
        gid: change.gid.unwrap_or(state.gid),
        accessed: time(change.accessed, state.accessed),
        modified: time(change.modified, state.modified),
        time: now.0.max(state.changed.0.saturating_add(1)),
    }
}

/// Whether `moved` may take the place of `replaced`: by the rules of POSIX, and never that of a disk.
fn check_replaced(moved: &Node, replaced: &Node) -> Result<(), ExportError> {
    match (moved.body(), replaced.body()) {
        (Body::Directory(_), Body::Directory(entries)) if entries.lock().by_id.is_empty() => Ok(()),
        (Body::Directory(_), Body::Directory(_)) => Err(ExportError::NotEmpty),
        (Body::Directory(_), _) => Err(ExportError::NotDirectory),
        (_, Body::Directory(_)) => Err(ExportError::IsDirectory),
        (_, Body::Disk(_)) => Err(ExportError::NotPermitted),
        _ => Ok(()),
    }
}

const MODE_MASK: u32 = 0o7777;
