//! A folder as a folder.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Result, anyhow};
use export::{DirectoryEntry, FileExport, FileId, FileKind};

use super::{DEPTH_MAX, Extracted, Trouble, content, dress, for_each, new_file, plain_name};

/// Copies a folder to a new one.
pub(crate) fn folder(tree: &dyn FileExport, folder: FileId, to: &Path) -> Result<Extracted> {
    let mut copy = Copy {
        tree,
        seen: HashSet::from([folder]),
        done: Extracted::default(),
    };
    let outcome = copy.folder(folder, to, DEPTH_MAX);
    copy.done.or_leave_out(to, outcome)?;
    rustix::fs::syncfs(File::open(to)?)?;
    Ok(copy.done)
}

struct Copy<'a> {
    tree: &'a dyn FileExport,
    /// A folder has one place: whatever leads to it a second time is a fault of the disk, perhaps a loop.
    seen: HashSet<FileId>,
    done: Extracted,
}

impl Copy<'_> {
    fn folder(&mut self, folder: FileId, to: &Path, depth: usize) -> Result<(), Trouble> {
        // It must be new, so that nothing that a guest made leads out of it.
        DirBuilder::new().mode(0o700).create(to).map_err(|error| {
            Trouble::Target(anyhow!(
                "cannot make the folder {}: {error}; give a name that is not taken",
                to.display()
            ))
        })?;
        self.done.folders += 1;
        let tree = self.tree;
        let listed = for_each(tree, folder, &mut |entry| {
            let Some(name) = plain_name(entry) else {
                let what = format!("an entry of {} without a name", to.display());
                self.done.leave_out(what);
                return Ok(());
            };
            let path = to.join(name);
            if path.symlink_metadata().is_ok() {
                let what = format!("{}: the name is there twice", path.display());
                self.done.leave_out(what);
                return Ok(());
            }
            let outcome = self.entry(entry, &path, depth);
            self.done.or_leave_out(&path, outcome)
        });
        self.done
            .or_leave_out(to, listed)
            .map_err(Trouble::Target)?;
        let attributes = tree.attributes(folder)?;
        let made = File::open(to)?;
        dress(tree, (&made, to), &attributes, &mut self.done).map_err(Trouble::Target)
    }

    fn entry(&mut self, entry: &DirectoryEntry, path: &Path, depth: usize) -> Result<(), Trouble> {
        let tree = self.tree;
        match entry.attributes.kind {
            FileKind::Directory if !self.seen.insert(entry.file) => {
                Err(Trouble::Source(anyhow!("a folder that was met before")))
            }
            FileKind::Directory if depth <= 1 => {
                Err(Trouble::Source(anyhow!("too many folders in one another")))
            }
            FileKind::Directory => self.folder(entry.file, path, depth - 1),
            FileKind::Symlink => {
                let target = tree.read_symlink(entry.file)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
                self.done.links += 1;
                Ok(())
            }
            FileKind::File => self.file(entry, path),
        }
    }

    fn file(&mut self, entry: &DirectoryEntry, path: &Path) -> Result<(), Trouble> {
        let tree = self.tree;
        // Of a hurt file the entry does not say all.
        let attributes = tree.attributes(entry.file)?;
        if tree.particulars(entry.file)?.special.is_some() {
            return Err(Trouble::Source(anyhow!("a device, a pipe or a socket")));
        }
        let target = new_file(path).map_err(Trouble::Target)?;
        if let Err(trouble) = content::copy_sparse(tree, &attributes, 0, &target) {
            // A file that is not whole must not look as if it were.
            fs::remove_file(path)?;
            return Err(trouble);
        }
        self.done.files += 1;
        self.done.bytes += attributes.size_bytes;
        dress(tree, (&target, path), &attributes, &mut self.done).map_err(Trouble::Target)
    }
}
