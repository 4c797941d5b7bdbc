//! Copying files of a guest out: hostile names and links stay inside the folder that is made.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use export::{Attributes, DirectoryEntry, FileExport, FileId, FileKind, Timestamp};
use serde::Serialize;

use super::files::DEPTH_MAX;

/// What was copied.
#[derive(Debug, Default, Serialize)]
pub(super) struct Extracted {
    pub(super) files: u64,
    pub(super) folders: u64,
    pub(super) links: u64,
    pub(super) bytes: u64,
    /// What could not be copied, and why.
    pub(super) left_out: Vec<String>,
}

/// Copies the content of a file from `offset` on.
pub(super) fn copy(
    tree: &dyn FileExport,
    file: FileId,
    offset: u64,
    to: &mut dyn Write,
) -> Result<u64> {
    let mut reader = Content {
        tree,
        file,
        at: offset,
        piece: bytes::Bytes::new(),
        rest: Vec::new(),
    };
    io::copy(&mut reader, to).context("cannot copy the file")
}

/// Copies a file to a new one, or the rest of it to one that is there.
pub(super) fn file(
    tree: &dyn FileExport,
    file: FileId,
    to: &Path,
    resume: bool,
) -> Result<Extracted> {
    let attributes = tree.attributes(file)?;
    let (target, offset) = match resume {
        true => {
            let target = OpenOptions::new()
                .append(true)
                .open(to)
                .with_context(|| format!("cannot go on with {}", to.display()))?;
            let length = target.metadata()?.len();
            if length > attributes.size_bytes {
                bail!(
                    "{} has {length} bytes and the file only {}: it is another file",
                    to.display(),
                    attributes.size_bytes
                );
            }
            (target, length)
        }
        false => (new_file(to)?, 0),
    };
    let bytes = match resume {
        true => copy(tree, file, offset, &mut &target),
        false => copy_sparse(tree, file, attributes.size_bytes, &target),
    };
    // What came is kept: --resume goes on with it.
    let bytes = bytes
        .with_context(|| format!("{} is not complete; --resume goes on with it", to.display()))?;
    let mut done = Extracted {
        files: 1,
        bytes,
        ..Extracted::default()
    };
    dress(tree, (&target, to), &attributes, &mut done)?;
    target.sync_all().context("cannot make the file durable")?;
    Ok(done)
}

/// Makes a file that must be new.
pub(super) fn new_file(to: &Path) -> Result<File> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{} is there already; give another name", to.display())
        }
        _ => anyhow!(
            "cannot make {}: {error}; check the path, its rights and the space",
            to.display()
        ),
    })
}

/// Copies a folder to a new one.
pub(super) fn folder(tree: &dyn FileExport, folder: FileId, to: &Path) -> Result<Extracted> {
    let mut done = Extracted::default();
    make_folder(tree, folder, to, DEPTH_MAX, &mut done)?;
    Ok(done)
}

fn make_folder(
    tree: &dyn FileExport,
    folder: FileId,
    to: &Path,
    depth: usize,
    done: &mut Extracted,
) -> Result<()> {
    // It must be new, so that nothing that a guest made leads out of it.
    fs::create_dir(to).map_err(|error| {
        anyhow!(
            "cannot make the folder {}: {error}; give a name that is not taken",
            to.display()
        )
    })?;
    done.folders += 1;
    for_each(tree, folder, &mut |entry| {
        let Some(name) = plain_name(entry) else {
            done.left_out
                .push(format!("an entry of {} without a name", to.display()));
            return Ok(());
        };
        let path = to.join(name);
        if let Err(error) = make_entry(tree, entry, &path, depth, done) {
            done.left_out.push(format!("{}: {error:#}", path.display()));
        }
        Ok(())
    })?;
    let attributes = tree.attributes(folder)?;
    dress(tree, (&File::open(to)?, to), &attributes, done)
}

fn make_entry(
    tree: &dyn FileExport,
    entry: &DirectoryEntry,
    path: &Path,
    depth: usize,
    done: &mut Extracted,
) -> Result<()> {
    match entry.attributes.kind {
        FileKind::Directory if depth > 1 => make_folder(tree, entry.file, path, depth - 1, done),
        FileKind::Directory => bail!("too many folders in one another"),
        FileKind::Symlink => {
            let target = tree.read_symlink(entry.file)?;
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), path)?;
            done.links += 1;
            Ok(())
        }
        FileKind::File if tree.particulars(entry.file)?.special.is_some() => {
            bail!("a device, pipe or socket")
        }
        FileKind::File => {
            let target = new_file(path)?;
            done.bytes += copy_sparse(tree, entry.file, entry.attributes.size_bytes, &target)?;
            done.files += 1;
            dress(tree, (&target, path), &entry.attributes, done)
        }
    }
}

/// Copies a content; what is zero becomes a hole.
fn copy_sparse(tree: &dyn FileExport, file: FileId, size: u64, to: &File) -> Result<u64> {
    to.set_len(size)
        .context("cannot make a file of that length; is there space?")?;
    let mut at = 0;
    while at < size {
        let read = tree.read(file, at, READ_BYTES)?;
        if read.data.is_empty() {
            bail!("the file ends at byte {at} and should have {size}");
        }
        for piece in read.data.into_pieces() {
            if piece.iter().any(|byte| *byte != 0) {
                to.write_all_at(&piece, at)
                    .context("cannot write; is there space?")?;
            }
            at += piece.len() as u64;
        }
    }
    Ok(size)
}

/// Gives a file or folder its extended attributes, owner, mode and times, as far as this user and file system may.
fn dress(
    tree: &dyn FileExport,
    (file, path): (&File, &Path),
    attributes: &Attributes,
    done: &mut Extracted,
) -> Result<()> {
    for own in tree.extended_attributes(attributes.file)? {
        let set = rustix::fs::fsetxattr(
            file,
            own.name.as_slice(),
            &own.value,
            rustix::fs::XattrFlags::empty(),
        );
        if let Err(error) = set {
            let name = String::from_utf8_lossy(&own.name);
            done.left_out
                .push(format!("{name} of {}: {error}", path.display()));
        }
    }
    let owned = std::os::unix::fs::fchown(file, Some(attributes.uid), Some(attributes.gid));
    if let Err(error) = owned
        && error.kind() != io::ErrorKind::PermissionDenied
    {
        done.left_out
            .push(format!("the owner of {}: {error}", path.display()));
    }
    // Who is not the owner gets no rights of the owner's.
    let mode = match rustix::process::geteuid().is_root() {
        true => attributes.mode & 0o7777,
        false => attributes.mode & 0o777 | 0o600,
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    let times = FileTimes::new()
        .set_accessed(system_time(attributes.accessed))
        .set_modified(system_time(attributes.modified));
    file.set_times(times)?;
    Ok(())
}

/// Writes a folder as a tar archive.
pub(super) fn tar(tree: &dyn FileExport, folder: FileId, to: impl Write) -> Result<Extracted> {
    let mut archive = tar::Builder::new(to);
    let mut done = Extracted::default();
    pack(
        tree,
        folder,
        Path::new(""),
        DEPTH_MAX,
        &mut archive,
        &mut done,
    )?;
    archive.finish().context("cannot end the archive")?;
    Ok(done)
}

fn pack<W: Write>(
    tree: &dyn FileExport,
    folder: FileId,
    path: &Path,
    depth: usize,
    archive: &mut tar::Builder<W>,
    done: &mut Extracted,
) -> Result<()> {
    done.folders += 1;
    for_each(tree, folder, &mut |entry| {
        let Some(name) = plain_name(entry) else {
            done.left_out
                .push(format!("an entry of {} without a name", path.display()));
            return Ok(());
        };
        let path = path.join(name);
        let attributes = &entry.attributes;
        let mut header = tar::Header::new_gnu();
        header.set_mode(attributes.mode & 0o7777);
        header.set_uid(attributes.uid.into());
        header.set_gid(attributes.gid.into());
        header.set_mtime(attributes.modified.seconds);
        header.set_size(0);
        match attributes.kind {
            FileKind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                archive.append_data(&mut header, path.join(""), io::empty())?;
                if depth <= 1 {
                    bail!("too many folders in one another at {}", path.display());
                }
                pack(tree, entry.file, &path, depth - 1, archive, done)?;
            }
            FileKind::Symlink => {
                let target = tree.read_symlink(entry.file)?;
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, &path, std::ffi::OsStr::from_bytes(&target))?;
                done.links += 1;
            }
            FileKind::File if tree.particulars(entry.file)?.special.is_some() => {
                let what = format!("{}: a device, pipe or socket", path.display());
                done.left_out.push(what);
            }
            FileKind::File => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(attributes.size_bytes);
                let content = Content {
                    tree,
                    file: entry.file,
                    at: 0,
                    piece: bytes::Bytes::new(),
                    rest: Vec::new(),
                };
                // Its length stands in front: a file that cannot be read ends the archive.
                archive
                    .append_data(&mut header, &path, content.take(attributes.size_bytes))
                    .with_context(|| format!("cannot read {}", path.display()))?;
                done.files += 1;
                done.bytes += attributes.size_bytes;
            }
        }
        Ok(())
    })
}

/// Calls `each` with every entry of a folder.
fn for_each(
    tree: &dyn FileExport,
    folder: FileId,
    each: &mut dyn FnMut(&DirectoryEntry) -> Result<()>,
) -> Result<()> {
    let mut cookie = 0;
    loop {
        let entries = tree.list(folder, cookie, PART)?;
        for entry in &entries {
            cookie = entry.cookie;
            each(entry)?;
        }
        if entries.len() < PART {
            return Ok(());
        }
    }
}

/// The name of an entry, if it is one and nothing that leads elsewhere.
fn plain_name(entry: &DirectoryEntry) -> Option<&std::ffi::OsStr> {
    let name = entry.name.as_slice();
    let leads = matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0);
    (!leads).then(|| std::ffi::OsStr::from_bytes(name))
}

fn system_time(time: Timestamp) -> SystemTime {
    let since = Duration::new(time.seconds, time.nanoseconds.min(999_999_999));
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The content of a file, to be read in order.
struct Content<'a> {
    tree: &'a dyn FileExport,
    file: FileId,
    at: u64,
    piece: bytes::Bytes,
    /// Pieces after it, the last first.
    rest: Vec<bytes::Bytes>,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if let Some(next) = self.rest.pop() {
                self.piece = next;
                continue;
            }
            let read = self
                .tree
                .read(self.file, self.at, READ_BYTES)
                .map_err(io::Error::other)?;
            if read.data.is_empty() {
                return Ok(0);
            }
            self.at += read.data.len() as u64;
            self.rest = read.data.into_pieces().into_iter().collect();
            self.rest.reverse();
        }
        let count = buffer.len().min(self.piece.len());
        let part = self.piece.split_to(count);
        for (target, byte) in buffer.iter_mut().zip(&part) {
            *target = *byte;
        }
        Ok(count)
    }
}

const PART: usize = 1024;
const READ_BYTES: u32 = 1 << 20;
