//! Where objects lie, by their numbers.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use export::{ExportError, FileId};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// Of folders all that were seen, up to a bound; of others those that were seen last. A number that is not known any more
/// is found again by its name.
pub(super) struct Places {
    top: PathBuf,
    root: FileId,
    folders: Mutex<HashMap<FileId, Place>>,
    others: Cache<FileId, Place>,
}

/// Where an object was seen.
#[derive(Clone)]
struct Place {
    folder: FileId,
    name: Box<[u8]>,
}

impl Places {
    pub(super) fn new(top: PathBuf, root: FileId) -> Self {
        Self {
            top,
            root,
            folders: Mutex::default(),
            others: Cache::new(OTHERS_MAX),
        }
    }

    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    pub(super) fn root(&self) -> FileId {
        self.root
    }

    /// The way to an object.
    pub(super) fn path(&self, file: FileId) -> Result<PathBuf, ExportError> {
        let mut names = Vec::new();
        let mut at = file;
        while at != self.root {
            let place = self.place(at)?;
            names.push(place.name);
            at = place.folder;
            if names.len() > DEPTH_MAX {
                return Err(ExportError::Stale);
            }
        }
        let mut path = self.top.clone();
        path.extend(names.iter().rev().map(|name| OsStr::from_bytes(name)));
        Ok(path)
    }

    /// The folder of a folder; that at the top is its own.
    pub(super) fn above(&self, folder: FileId) -> Result<FileId, ExportError> {
        match folder == self.root {
            true => Ok(folder),
            false => Ok(self.place(folder)?.folder),
        }
    }

    /// Notes where an object was seen.
    pub(super) fn note(
        &self,
        file: FileId,
        is_folder: bool,
        folder: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        if file == self.root {
            return Ok(());
        }
        let name = name.into();
        let place = Place { folder, name };
        if !is_folder {
            self.others.insert(file, place);
            return Ok(());
        }
        let mut folders = self.folders.lock();
        if folders.len() >= FOLDERS_MAX && !folders.contains_key(&file) {
            return Err(ExportError::NotSupported);
        }
        folders.insert(file, place);
        Ok(())
    }

    fn place(&self, file: FileId) -> Result<Place, ExportError> {
        let folder = self.folders.lock().get(&file).cloned();
        folder
            .or_else(|| self.others.get(&file))
            .ok_or(ExportError::Stale)
    }
}

const DEPTH_MAX: usize = 4096;
/// As many as the machine's memory takes beside everything else.
const FOLDERS_MAX: usize = 300_000;
const OTHERS_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_over_folders_and_end() {
        let places = Places::new("/top".into(), FileId(2));
        places.note(FileId(3), true, FileId(2), b"a").unwrap();
        places.note(FileId(4), false, FileId(3), b"b\xFF").unwrap();
        let path = places.path(FileId(4)).unwrap();
        assert_eq!(path.as_os_str().as_bytes(), b"/top/a/b\xFF");
        assert_eq!(places.path(FileId(2)).unwrap(), Path::new("/top"));
        assert_eq!(places.above(FileId(3)).unwrap(), FileId(2));
        assert_eq!(places.above(FileId(2)).unwrap(), FileId(2));
        assert!(matches!(places.path(FileId(9)), Err(ExportError::Stale)));
        // Folders that a damaged filesystem has in one another.
        places.note(FileId(5), true, FileId(6), b"c").unwrap();
        places.note(FileId(6), true, FileId(5), b"d").unwrap();
        assert!(matches!(places.path(FileId(5)), Err(ExportError::Stale)));
    }
}
