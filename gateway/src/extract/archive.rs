//! A folder as one file: tar, or zip.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use export::{Attributes, DirectoryEntry, FileExport, FileId, FileKind};
use tar::{Builder, EntryType, Header};

use super::content::Promised;
use super::zip::ZipArchive;
use super::{DEPTH_MAX, Extracted, Trouble, for_each, plain_name};

/// A form of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArchiveForm {
    /// Keeps owners, modes and names as they are.
    Tar,
    /// What every desktop opens.
    Zip,
}

impl ArchiveForm {
    /// By what stands behind the last dot of a name.
    pub(crate) fn of(extension: &str) -> Option<Self> {
        match extension {
            "tar" => Some(Self::Tar),
            "zip" => Some(Self::Zip),
            _ => None,
        }
    }

    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::Zip => "application/zip",
        }
    }

    /// Writes a folder.
    pub(crate) fn pack(
        self,
        tree: &dyn FileExport,
        folder: FileId,
        to: impl Write,
    ) -> Result<Extracted> {
        match self {
            Self::Tar => tar(tree, folder, to),
            Self::Zip => zip(tree, folder, to),
        }
    }
}

/// Writes a folder as a tar archive.
pub(crate) fn tar(tree: &dyn FileExport, folder: FileId, to: impl Write) -> Result<Extracted> {
    let (done, archive) = pack(tree, folder, Builder::new(to))?;
    archive.into_inner().context("cannot end the archive")?;
    Ok(done)
}

/// Writes a folder as a zip archive.
fn zip(tree: &dyn FileExport, folder: FileId, to: impl Write) -> Result<Extracted> {
    let (done, archive) = pack(tree, folder, ZipArchive::new(to))?;
    archive.finish().context("cannot end the archive")?;
    Ok(done)
}

/// What takes a tree in, entry by entry.
pub(super) trait Archive {
    fn folder(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()>;

    fn link(&mut self, path: &Path, attributes: &Attributes, target: &OsStr) -> io::Result<()>;

    /// Exactly as many bytes as the attributes say come out of `content`.
    fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        content: &mut dyn io::Read,
    ) -> io::Result<()>;
}

impl<W: Write> Archive for Builder<W> {
    fn folder(&mut self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        let mut header = header(attributes, EntryType::Directory);
        self.append_data(&mut header, path.join(""), io::empty())
    }

    fn link(&mut self, path: &Path, attributes: &Attributes, target: &OsStr) -> io::Result<()> {
        self.append_link(&mut header(attributes, EntryType::Symlink), path, target)
    }

    fn file(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        content: &mut dyn io::Read,
    ) -> io::Result<()> {
        let mut header = header(attributes, EntryType::Regular);
        header.set_size(attributes.size_bytes);
        self.append_data(&mut header, path, content)
    }
}

fn header(attributes: &Attributes, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(attributes.mode & 0o7777);
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    header.set_mtime(attributes.modified.seconds);
    header.set_size(0);
    header.set_entry_type(kind);
    header
}

fn pack<A: Archive>(tree: &dyn FileExport, folder: FileId, archive: A) -> Result<(Extracted, A)> {
    let mut pack = Pack {
        tree,
        seen: HashSet::from([folder]),
        done: Extracted::default(),
        archive,
    };
    pack.folder(folder, Path::new(""), DEPTH_MAX)?;
    Ok((pack.done, pack.archive))
}

struct Pack<'a, A> {
    tree: &'a dyn FileExport,
    /// As in the copy to a folder.
    seen: HashSet<FileId>,
    done: Extracted,
    archive: A,
}

impl<A: Archive> Pack<'_, A> {
    fn folder(&mut self, folder: FileId, path: &Path, depth: usize) -> Result<()> {
        self.done.folders += 1;
        let tree = self.tree;
        // A name that comes twice, first as a link and then as a folder, would lead whoever unpacks out of the folder.
        let mut names = HashSet::new();
        let listed = for_each(tree, folder, &mut |entry| {
            let Some(name) = plain_name(entry).filter(|name| names.insert(name.to_os_string()))
            else {
                let what = format!("an entry of {} without a name of its own", path.display());
                self.done.leave_out(what);
                return Ok(());
            };
            let path = path.join(name);
            let outcome = self.entry(entry, &path, depth);
            self.done.or_leave_out(&path, outcome)
        });
        self.done.or_leave_out(path, listed)
    }

    fn entry(&mut self, entry: &DirectoryEntry, path: &Path, depth: usize) -> Result<(), Trouble> {
        let attributes = self.tree.attributes(entry.file)?;
        match attributes.kind {
            FileKind::Directory if !self.seen.insert(entry.file) => {
                Err(Trouble::Source(anyhow!("a folder that was met before")))
            }
            FileKind::Directory if depth <= 1 => {
                Err(Trouble::Source(anyhow!("too many folders in one another")))
            }
            FileKind::Directory => {
                self.archive.folder(path, &attributes)?;
                let packed = self.folder(entry.file, path, depth - 1);
                packed.map_err(Trouble::Target)
            }
            FileKind::Symlink => {
                let target = self.tree.read_symlink(entry.file)?;
                self.archive
                    .link(path, &attributes, OsStr::from_bytes(&target))?;
                self.done.links += 1;
                Ok(())
            }
            FileKind::File if self.tree.particulars(entry.file)?.special.is_some() => {
                Err(Trouble::Source(anyhow!("a device, a pipe or a socket")))
            }
            FileKind::File => self.file(entry, path, &attributes),
        }
    }

    fn file(
        &mut self,
        entry: &DirectoryEntry,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), Trouble> {
        let mut content = Promised {
            tree: self.tree,
            file: entry.file,
            size: attributes.size_bytes,
            at: 0,
            pieces: Vec::new(),
            trouble: None,
        };
        self.archive.file(path, attributes, &mut content)?;
        if let Some(trouble) = content.trouble {
            let text = format!("{trouble}; from there on it is zero in the archive");
            return Err(Trouble::Source(anyhow!(text)));
        }
        self.done.files += 1;
        self.done.bytes += attributes.size_bytes;
        Ok(())
    }
}
