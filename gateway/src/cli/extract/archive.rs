//! A folder as a tar archive.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use export::{DirectoryEntry, FileExport, FileId, FileKind};
use tar::{Builder, EntryType, Header};

use super::content::Promised;
use super::{DEPTH_MAX, Extracted, Trouble, for_each, plain_name};

/// Writes a folder as a tar archive.
pub(in crate::cli) fn tar(
    tree: &dyn FileExport,
    folder: FileId,
    to: impl Write,
) -> Result<Extracted> {
    let mut pack = Pack {
        tree,
        seen: HashSet::from([folder]),
        done: Extracted::default(),
        archive: Builder::new(to),
    };
    pack.folder(folder, Path::new(""), DEPTH_MAX)?;
    pack.archive.finish().context("cannot end the archive")?;
    Ok(pack.done)
}

struct Pack<'a, W: Write> {
    tree: &'a dyn FileExport,
    /// As in the copy to a folder.
    seen: HashSet<FileId>,
    done: Extracted,
    archive: Builder<W>,
}

impl<W: Write> Pack<'_, W> {
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
        let mut header = Header::new_gnu();
        header.set_mode(attributes.mode & 0o7777);
        header.set_uid(attributes.uid.into());
        header.set_gid(attributes.gid.into());
        header.set_mtime(attributes.modified.seconds);
        header.set_size(0);
        match attributes.kind {
            FileKind::Directory if !self.seen.insert(entry.file) => {
                Err(Trouble::Source(anyhow!("a folder that was met before")))
            }
            FileKind::Directory if depth <= 1 => {
                Err(Trouble::Source(anyhow!("too many folders in one another")))
            }
            FileKind::Directory => {
                header.set_entry_type(EntryType::Directory);
                let name = path.join("");
                self.archive.append_data(&mut header, name, io::empty())?;
                let packed = self.folder(entry.file, path, depth - 1);
                packed.map_err(Trouble::Target)
            }
            FileKind::Symlink => {
                let target = self.tree.read_symlink(entry.file)?;
                header.set_entry_type(EntryType::Symlink);
                let target = OsStr::from_bytes(&target);
                self.archive.append_link(&mut header, path, target)?;
                self.done.links += 1;
                Ok(())
            }
            FileKind::File if self.tree.particulars(entry.file)?.special.is_some() => {
                Err(Trouble::Source(anyhow!("a device, a pipe or a socket")))
            }
            FileKind::File => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(attributes.size_bytes);
                let mut content = Promised {
                    tree: self.tree,
                    file: entry.file,
                    size: attributes.size_bytes,
                    at: 0,
                    pieces: Vec::new(),
                    trouble: None,
                };
                self.archive.append_data(&mut header, path, &mut content)?;
                if let Some(trouble) = content.trouble {
                    let text = format!("{trouble}; from there on it is zero in the archive");
                    return Err(Trouble::Source(anyhow!(text)));
                }
                self.done.files += 1;
                self.done.bytes += attributes.size_bytes;
                Ok(())
            }
        }
    }
}
