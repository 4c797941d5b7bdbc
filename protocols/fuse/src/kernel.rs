//! The kernel's requests: each is taken apart and answered at once, or handed to the workers.
//!
//! What programs ask most, names and attributes, never waits for bulk data and is answered at once; so is content that
//! memory has. Other content, listings and changes go to the workers.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use export::{
    Caller, CreateMode, Durability, ExportError, ExtendedAttribute, FileRead, SetAttributes,
};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use crate::filesystem::Filesystem;
use crate::listing::Room;
use crate::workers::Workers;
use crate::{Caching, answers};

/// The answering side of one mount.
#[derive(Debug)]
pub(crate) struct Kernel {
    filesystem: Arc<Filesystem>,
    workers: Workers,
    read_ahead_bytes: u32,
    opening: Opening,
}

/// What the kernel is told when something is opened. Nothing is kept for open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// To open without asking, and to keep what it has of the content.
    Unasked,
    /// To keep what it has.
    Keep,
    /// To read anew.
    Anew,
}

impl Kernel {
    pub(crate) fn new(
        filesystem: Arc<Filesystem>,
        workers: Workers,
        read_ahead_bytes: u32,
    ) -> Self {
        let opening = match filesystem.caching {
            Caching::Immutable => Opening::Keep,
            Caching::Shared => Opening::Anew,
        };
        Self {
            filesystem,
            workers,
            read_ahead_bytes,
            opening,
        }
    }

    /// Lets a worker answer.
    fn run(&self, job: impl FnOnce(&Filesystem) + Send + 'static) {
        let filesystem = Arc::clone(&self.filesystem);
        self.workers.run(move || job(&filesystem));
    }

    fn opened(&self, reply: ReplyOpen, cached: FopenFlags) {
        match self.opening {
            Opening::Unasked => reply.error(Errno::ENOSYS),
            Opening::Keep => reply.opened(FileHandle(0), cached),
            Opening::Anew => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }
}

impl fuser::Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = match self.filesystem.caching {
            Caching::Immutable => InitFlags::FUSE_CACHE_SYMLINKS,
            Caching::Shared => InitFlags::FUSE_AUTO_INVAL_DATA,
        };
        for flag in wanted.union(ALWAYS_WANTED) {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel is too old for a capability");
            }
        }
        if let Err(most) = config.set_max_write(REQUEST_BYTES_MAX) {
            config.set_max_write(most).ok();
        }
        // The kernel offers its own default here; more is set where it lists the mount's device.
        if let Err(most) = config.set_max_readahead(self.read_ahead_bytes) {
            config.set_max_readahead(most).ok();
        }
        config.set_max_background(BACKGROUND_REQUESTS_MAX).ok();
        let unasked = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        if self.opening == Opening::Keep && config.capabilities().contains(unasked) {
            self.opening = Opening::Unasked;
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let filesystem = &*self.filesystem;
        match filesystem.lookup(parent, name.as_bytes()) {
            Err(ExportError::NotFound) if filesystem.caching == Caching::Immutable => {
                reply.entry(&filesystem.lifetime(), &answers::nothing(), Generation(0));
            }
            found => entry(filesystem, "lookup", parent, found, reply),
        }
    }

    // No table is kept of what the kernel knows (numbers.rs).
    fn forget(&self, _request: &Request, _inode: INodeNo, _lookups: u64) {}

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let found = self.filesystem.attributes(inode);
        attr(&self.filesystem, inode, found, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _change_time: Option<SystemTime>,
        _backup_time: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(request);
        let change = SetAttributes {
            mode: mode.map(|mode| mode & answers::MODE_MASK),
            uid,
            gid,
            size_bytes: size,
            accessed: accessed.map(answers::time_change),
            modified: modified.map(answers::time_change),
        };
        self.run(move |filesystem| {
            let changed = filesystem.set_attributes(&caller, inode, &change);
            attr(filesystem, inode, changed, reply);
        });
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.filesystem.read_symlink(inode) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.filesystem.errno("readlink", inode, &error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        if mode & KIND_MASK != KIND_FILE {
            return reply.error(crate::error::status(&ExportError::NotSupported));
        }
        let (caller, name, attributes) = (caller(request), bytes(name), with_mode(mode));
        self.run(move |filesystem| {
            let made = filesystem.create(&caller, parent, &name, CreateMode::Guarded, &attributes);
            entry(filesystem, "mknod", parent, made, reply);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, name, attributes) = (caller(request), bytes(name), with_mode(mode));
        self.run(move |filesystem| {
            let made = filesystem.create_directory(&caller, parent, &name, &attributes);
            entry(filesystem, "mkdir", parent, made, reply);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, name, target) = (caller(request), bytes(name), bytes(target.as_os_str()));
        self.run(move |filesystem| {
            let made = filesystem.create_symlink(&caller, parent, &name, &target);
            entry(filesystem, "symlink", parent, made, reply);
        });
    }

    fn link(
        &self,
        request: &Request,
        inode: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), bytes(name));
        self.run(move |filesystem| {
            let made = filesystem.link(&caller, inode, parent, &name);
            entry(filesystem, "link", inode, made, reply);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), bytes(name));
        self.run(move |filesystem| {
            let removed = filesystem.remove(&caller, parent, &name);
            done(filesystem, "unlink", parent, removed, reply);
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), bytes(name));
        self.run(move |filesystem| {
            let removed = filesystem.remove_directory(&caller, parent, &name);
            done(filesystem, "rmdir", parent, removed, reply);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // A tree cannot keep others from the new name meanwhile; programs fall back when told so.
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (caller, name, new_name) = (caller(request), bytes(name), bytes(new_name));
        self.run(move |filesystem| {
            let renamed = filesystem.rename(&caller, (parent, &name), (new_parent, &new_name));
            done(filesystem, "rename", parent, renamed, reply);
        });
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.opened(reply, FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name) = (caller(request), bytes(name));
        let flags = OFlags::from_bits_retain(flags.cast_unsigned());
        let create_mode = if flags.contains(OFlags::EXCL) {
            CreateMode::Guarded
        } else {
            CreateMode::Unchecked
        };
        let attributes = SetAttributes {
            size_bytes: flags.contains(OFlags::TRUNC).then_some(0),
            ..with_mode(mode)
        };
        self.run(move |filesystem| {
            match filesystem.create(&caller, parent, &name, create_mode, &attributes) {
                Ok(made) => {
                    let (lifetime, handle) = (filesystem.lifetime(), FileHandle(0));
                    reply.created(&lifetime, &made, Generation(0), handle, FopenFlags::empty());
                }
                Err(error) => reply.error(filesystem.errno("create", parent, &error)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(read) = self.filesystem.read_cached(inode, offset, size) {
            return data(&self.filesystem, inode, read, reply);
        }
        self.run(move |filesystem| {
            let read = filesystem.read(inode, offset, size);
            data(filesystem, inode, read, reply);
        });
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Ok(length) = u32::try_from(data.len()) else {
            return reply.error(Errno::EINVAL);
        };
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        let durability = if flags.intersects(OFlags::DSYNC) {
            Durability::Stable
        } else {
            Durability::Unstable
        };
        // The bytes lie in the buffer that the next request comes into.
        let data = Bytes::copy_from_slice(data);
        let answer = move |filesystem: &Filesystem, result, reply: ReplyWrite| match result {
            Ok(()) => reply.written(length),
            Err(error) => reply.error(filesystem.errno("write", inode, &error)),
        };
        if let Some(result) = self.filesystem.try_write(inode, offset, &data, durability) {
            return answer(&self.filesystem, result, reply);
        }
        self.run(move |filesystem| {
            let result = filesystem.write(inode, offset, &data, durability);
            answer(filesystem, result, reply);
        });
    }

    // What is closed has been written: the kernel holds nothing back. It does not ask again.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.run(move |filesystem| {
            let committed = filesystem.commit(inode);
            done(filesystem, "fsync", inode, committed, reply);
        });
    }

    // Changes of names are stable when they are answered.
    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let cached = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        self.opened(reply, cached);
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.run(move |filesystem| {
            let listed = filesystem.list(inode, offset, &mut |listed| {
                let attr = filesystem.answer(listed.attributes)?;
                let name = OsStr::from_bytes(listed.name);
                Ok(room(reply.add(attr.ino, listed.next, attr.kind, name)))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(filesystem.errno("readdir", inode, &error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.run(move |filesystem| {
            let listed = filesystem.list(inode, offset, &mut |listed| {
                let attr = filesystem.answer(listed.attributes)?;
                let lifetime = filesystem.listed_lifetime(listed.attributes);
                let (next, name) = (listed.next, OsStr::from_bytes(listed.name));
                let is_full = reply.add(attr.ino, next, name, &lifetime, &attr, Generation(0));
                Ok(room(is_full))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(filesystem.errno("readdirplus", inode, &error)),
            }
        });
    }

    fn statfs(&self, _request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        match self.filesystem.tree.statistics() {
            Ok(space) => {
                let blocks = |bytes: u64| bytes / u64::from(answers::BLOCK_BYTES);
                reply.statfs(
                    blocks(space.total_bytes),
                    blocks(space.free_bytes),
                    blocks(space.available_bytes),
                    space.total_files,
                    space.free_files,
                    answers::BLOCK_BYTES,
                    NAME_BYTES_MAX,
                    answers::BLOCK_BYTES,
                );
            }
            Err(error) => reply.error(self.filesystem.errno("statfs", inode, &error)),
        }
    }

    fn getxattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        match self.filesystem.extended_attributes(inode) {
            Ok(all) => match all.iter().find(|one| one.name == name.as_bytes()) {
                Some(found) => sized(&found.value, size, reply),
                None => reply.error(Errno::NO_XATTR),
            },
            Err(error) => reply.error(self.filesystem.errno("getxattr", inode, &error)),
        }
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        match self.filesystem.extended_attributes(inode) {
            Ok(all) => sized(&names(&all), size, reply),
            Err(error) => reply.error(self.filesystem.errno("listxattr", inode, &error)),
        }
    }
}

fn entry(
    filesystem: &Filesystem,
    asked: &'static str,
    inode: INodeNo,
    found: Result<FileAttr, ExportError>,
    reply: ReplyEntry,
) {
    match found {
        Ok(attr) => reply.entry(&filesystem.lifetime(), &attr, Generation(0)),
        Err(error) => reply.error(filesystem.errno(asked, inode, &error)),
    }
}

fn attr(
    filesystem: &Filesystem,
    inode: INodeNo,
    found: Result<FileAttr, ExportError>,
    reply: ReplyAttr,
) {
    match found {
        Ok(attr) => reply.attr(&filesystem.lifetime(), &attr),
        Err(error) => reply.error(filesystem.errno("attributes", inode, &error)),
    }
}

fn done(
    filesystem: &Filesystem,
    asked: &'static str,
    inode: INodeNo,
    result: Result<(), ExportError>,
    reply: ReplyEmpty,
) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(filesystem.errno(asked, inode, &error)),
    }
}

/// One piece goes to the kernel from where it lies; several are copied together, as a reply takes one.
fn data(
    filesystem: &Filesystem,
    inode: INodeNo,
    read: Result<FileRead, ExportError>,
    reply: ReplyData,
) {
    match read {
        Ok(read) => match read.data.pieces() {
            [] => reply.data(&[]),
            [piece] => reply.data(piece),
            _ => reply.data(&read.data.to_vec()),
        },
        Err(error) => reply.error(filesystem.errno("read", inode, &error)),
    }
}

/// Who asks with no room wants to know how much there must be.
fn sized(value: &[u8], room_bytes: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if room_bytes == 0 => reply.size(length),
        Ok(length) if length <= room_bytes => reply.data(value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(_) => reply.error(Errno::E2BIG),
    }
}

/// Each name with a NUL after it. One with a NUL in it would be two.
fn names(all: &[ExtendedAttribute]) -> Vec<u8> {
    let mut names = Vec::new();
    for one in all.iter().filter(|one| !one.name.contains(&0)) {
        names.extend_from_slice(&one.name);
        names.push(0);
    }
    names
}

fn room(is_full: bool) -> Room {
    if is_full { Room::Full } else { Room::Left }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// The kernel does not say in which further groups the caller is.
fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        gids: Vec::new(),
    }
}

/// The caller's mask is off already.
fn with_mode(mode: u32) -> SetAttributes {
    SetAttributes {
        mode: Some(mode & answers::MODE_MASK),
        ..SetAttributes::default()
    }
}

const ALWAYS_WANTED: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_EXPORT_SUPPORT);

/// The largest read and write that the kernel sends, unless its administrator allows more.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests for which no program waits yet, as those of read-ahead.
const BACKGROUND_REQUESTS_MAX: u16 = 64;

const NAME_BYTES_MAX: u32 = 255;
const KIND_MASK: u32 = 0o170_000;
const KIND_FILE: u32 = 0o100_000;
