//! Everything in a folder and below.

use std::collections::HashSet;
use std::ops::ControlFlow;

use export::{DirectoryEntry, ExportError, FileExport, FileId, FileKind};

/// A walk over folders.
pub(crate) struct Walk<'a> {
    tree: &'a dyn FileExport,
    /// A folder has one place: whatever leads to it a second time is a fault of the disk.
    seen: HashSet<FileId>,
    /// What could not be listed, and why.
    pub(crate) left_out: Vec<String>,
}

/// Hears of each object, by its path from the top; may end the walk.
pub(crate) type Show<'a> = dyn FnMut(&str, &DirectoryEntry) -> ControlFlow<()> + 'a;

/// The start of a walk is no folder.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no folder; `holdfast files get` copies it")]
pub(crate) struct NoFolder(String);

impl<'a> Walk<'a> {
    pub(crate) fn new(tree: &'a dyn FileExport) -> Self {
        Self {
            tree,
            seen: HashSet::new(),
            left_out: Vec::new(),
        }
    }

    /// Shows everything in the folder `start`, whose path is `path`, and below it down to `depth`.
    pub(crate) fn run(
        &mut self,
        start: FileId,
        path: &str,
        depth: usize,
        show: &mut Show<'_>,
    ) -> Result<(), NoFolder> {
        self.seen.insert(start);
        if let Err(ExportError::NotDirectory) = self.tree.list(start, 0, 1) {
            return Err(NoFolder(path.to_owned()));
        }
        match self.folder(start, path.trim_matches('/'), depth, show) {
            // Whoever ended it knows.
            ControlFlow::Break(()) | ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn folder(
        &mut self,
        folder: FileId,
        path: &str,
        depth: usize,
        show: &mut Show<'_>,
    ) -> ControlFlow<()> {
        let mut cookie = 0;
        loop {
            let entries = match self.tree.list(folder, cookie, PART) {
                Err(error) => {
                    let place = if path.is_empty() { "the top" } else { path };
                    let why = crate::exports::chain(&error);
                    self.left_out.push(format!("the rest of {place}: {why}"));
                    return ControlFlow::Continue(());
                }
                Ok(entries) => entries,
            };
            for entry in &entries {
                cookie = entry.cookie;
                let name = String::from_utf8_lossy(&entry.name);
                let path = format!("{path}/{name}");
                let path = path.trim_start_matches('/');
                show(path, entry)?;
                let is_folder = entry.attributes.kind == FileKind::Directory;
                if is_folder && depth > 1 && self.seen.insert(entry.file) {
                    self.folder(entry.file, path, depth - 1, show)?;
                }
            }
            if entries.len() < PART {
                return ControlFlow::Continue(());
            }
        }
    }
}

/// Entries that are asked for at once.
const PART: usize = 1024;
