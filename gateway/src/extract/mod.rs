//! Copying files of a guest out: hostile names, links and lengths stay inside the folder that is made.
//!
//! What the guest's disk does not give is left out and told. What the target does not take ends the copy.

mod archive;
mod content;
mod folder;
mod zip;

use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use export::{Attributes, DirectoryEntry, ExportError, FileExport, FileId, Timestamp};
use serde::Serialize;

pub(crate) use archive::{ArchiveForm, tar};
pub(crate) use content::copy;
pub(crate) use folder::folder;

/// What was copied.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Extracted {
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) links: u64,
    pub(crate) bytes: u64,
    /// What could not be copied, and why; the first thousand.
    pub(crate) left_out: Vec<String>,
    /// How much could not be copied.
    pub(crate) left_out_total: u64,
}

/// Who is to blame.
enum Trouble {
    /// The guest's disk.
    Source(anyhow::Error),
    /// Where it is copied to.
    Target(anyhow::Error),
}

impl Extracted {
    fn leave_out(&mut self, what: String) {
        self.left_out_total += 1;
        if self.left_out.len() < LISTED_MAX {
            self.left_out.push(what);
        }
    }

    /// Leaves out what the source does not give.
    fn or_leave_out(&mut self, path: &Path, outcome: Result<(), Trouble>) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Trouble::Source(error)) => {
                self.leave_out(format!("{}: {error:#}", path.display()));
                Ok(())
            }
            Err(Trouble::Target(error)) => Err(error),
        }
    }
}

impl From<ExportError> for Trouble {
    fn from(error: ExportError) -> Self {
        Self::Source(error.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Target(error.into())
    }
}

/// Copies a file to a new one, or the rest of it to one that is there.
pub(crate) fn file(
    tree: &dyn FileExport,
    file: FileId,
    to: &Path,
    resume: bool,
) -> Result<Extracted> {
    let attributes = tree.attributes(file)?;
    if tree.particulars(file)?.special.is_some() {
        bail!("it is a device, a pipe or a socket: there is nothing in it to copy");
    }
    let target = match resume {
        true => go_on(tree, &attributes, to)?,
        false => new_file(to)?,
    };
    let mut done = Extracted::default();
    let offset = target.metadata()?.len();
    match content::copy_sparse(tree, &attributes, offset, &target) {
        Ok(()) => {}
        // What came is kept.
        Err(Trouble::Source(error) | Trouble::Target(error)) => {
            return Err(error.context(format!(
                "{} is not complete; --resume goes on with it",
                to.display()
            )));
        }
    }
    done.files = 1;
    done.bytes = attributes.size_bytes - offset;
    dress(tree, (&target, to), &attributes, &mut done)?;
    target.sync_all().context("cannot make the file durable")?;
    Ok(done)
}

/// Opens a file whose content is the beginning of another.
fn go_on(tree: &dyn FileExport, attributes: &Attributes, to: &Path) -> Result<File> {
    let target = OpenOptions::new()
        .read(true)
        .write(true)
        .open(to)
        .with_context(|| format!("cannot go on with {}", to.display()))?;
    let length = target.metadata()?.len();
    let another = || {
        anyhow!(
            "{} is not the beginning of that file: it is of another one, or of another restore point",
            to.display()
        )
    };
    if length > attributes.size_bytes {
        return Err(another());
    }
    let compared = length.min(u64::from(content::READ_BYTES));
    if !content::is_same(tree, attributes.file, length - compared, compared, &target)? {
        return Err(another());
    }
    Ok(target)
}

/// Makes a file that must be new, and that nobody else reads until it has its own mode.
pub(crate) fn new_file(to: &Path) -> Result<File> {
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
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

/// Gives a file or folder its owner, extended attributes, mode and times, as far as this user and file system may.
fn dress(
    tree: &dyn FileExport,
    (file, path): (&File, &Path),
    attributes: &Attributes,
    done: &mut Extracted,
) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::fchown(file, Some(attributes.uid), Some(attributes.gid))
            .with_context(|| format!("cannot give {} its owner", path.display()))?;
    }
    // After the owner, whose change would take some of them away.
    match tree.extended_attributes(attributes.file) {
        Err(error) => done.leave_out(format!(
            "the extended attributes of {}: {error}",
            path.display()
        )),
        Ok(all) => {
            for own in all {
                let none = rustix::fs::XattrFlags::empty();
                let set = rustix::fs::fsetxattr(file, own.name.as_slice(), &own.value, none);
                if let Err(error) = set {
                    let name = String::from_utf8_lossy(&own.name);
                    done.leave_out(format!("{name} of {}: {error}", path.display()));
                }
            }
        }
    }
    // A program of the guest must not run here with the rights of its owner.
    if attributes.mode & SET_ID != 0 {
        done.leave_out(format!(
            "that {} runs with the rights of its owner or group",
            path.display()
        ));
    }
    let mode = match is_root {
        true => attributes.mode & 0o1777,
        false => attributes.mode & 0o777 | 0o600,
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    let times = FileTimes::new()
        .set_accessed(system_time(attributes.accessed))
        .set_modified(system_time(attributes.modified));
    file.set_times(times)?;
    Ok(())
}

/// Calls `each` with every entry of a folder.
fn for_each(
    tree: &dyn FileExport,
    folder: FileId,
    each: &mut dyn FnMut(&DirectoryEntry) -> Result<()>,
) -> Result<(), Trouble> {
    let mut cookie = 0;
    loop {
        let entries = tree.list(folder, cookie, PART)?;
        for entry in &entries {
            cookie = entry.cookie;
            each(entry).map_err(Trouble::Target)?;
        }
        if entries.len() < PART {
            return Ok(());
        }
    }
}

/// The name of an entry, if it is one and nothing that leads elsewhere.
fn plain_name(entry: &DirectoryEntry) -> Option<&std::ffi::OsStr> {
    use std::os::unix::ffi::OsStrExt as _;
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

/// Entries that are asked for at once.
const PART: usize = 1024;

/// Folders in folders that are followed.
pub(crate) const DEPTH_MAX: usize = 256;

const LISTED_MAX: usize = 1000;
const SET_ID: u32 = 0o6000;

#[cfg(test)]
mod tests;
