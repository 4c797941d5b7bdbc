//! Where names lie in large folders whose format has no order that helps.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::GuestError;

/// Places of names by their hash, for the folders that were searched last.
pub(crate) struct NameIndex {
    folders: Mutex<VecDeque<(u64, Arc<Places>)>>,
    hasher: RandomState,
}

/// Hashes and places, in order; empty for a folder that has too many names.
type Places = Vec<(u64, u64)>;

/// Takes a name and where it lies.
pub(crate) type Learn<'l> = &'l mut dyn FnMut(&[u8], u64) -> ControlFlow<()>;

impl NameIndex {
    pub(crate) fn new() -> Self {
        Self {
            folders: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Where in a folder `name` may lie: places of names with its hash. `scan` is called for a folder that is not known,
    /// to tell its names. `None` if the folder is to be searched from front to back.
    pub(crate) fn places(
        &self,
        folder: u64,
        name: &[u8],
        scan: impl FnOnce(Learn<'_>) -> Result<(), GuestError>,
    ) -> Result<Option<Vec<u64>>, GuestError> {
        let places = self.of_folder(folder, scan)?;
        if places.is_empty() {
            return Ok(None);
        }
        let hash = self.hasher.hash_one(name);
        let first = places.partition_point(|(other, _)| *other < hash);
        let same = places
            .iter()
            .skip(first)
            .take_while(|(other, _)| *other == hash);
        Ok(Some(same.map(|(_, place)| *place).collect()))
    }

    fn of_folder(
        &self,
        folder: u64,
        scan: impl FnOnce(Learn<'_>) -> Result<(), GuestError>,
    ) -> Result<Arc<Places>, GuestError> {
        let found = self
            .folders
            .lock()
            .iter()
            .find(|(of, _)| *of == folder)
            .map(|(_, places)| Arc::clone(places));
        if let Some(places) = found {
            return Ok(places);
        }
        let places = Arc::new(self.index(scan)?);
        let mut folders = self.folders.lock();
        folders.retain(|(of, _)| *of != folder);
        folders.push_front((folder, Arc::clone(&places)));
        let sum = |folders: &VecDeque<(u64, Arc<Places>)>| {
            folders
                .iter()
                .map(|(_, places)| places.len())
                .sum::<usize>()
        };
        while folders.len() > FOLDERS_KEPT || (folders.len() > 1 && sum(&folders) > NAMES_KEPT) {
            drop(folders.pop_back());
        }
        Ok(places)
    }

    fn index(
        &self,
        scan: impl FnOnce(Learn<'_>) -> Result<(), GuestError>,
    ) -> Result<Places, GuestError> {
        let mut places = Places::new();
        let scanned = scan(&mut |name, place| {
            places.push((self.hasher.hash_one(name), place));
            if places.len() > INDEXED_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match scanned {
            // Names before the hurt place are found as in a folder that has too many.
            Err(error) if error.is_of_one_place() => places.clear(),
            other => other?,
        }
        if places.len() > INDEXED_MAX {
            places = Places::new();
        }
        places.sort_unstable();
        places.shrink_to_fit();
        Ok(places)
    }
}

/// Folders up to this length are better looked through each time.
pub(crate) const INDEX_FROM_BYTES: u64 = 16 << 10;
/// Names of one folder beyond which it is looked through each time: 16 MiB.
const INDEXED_MAX: usize = 1 << 20;
/// Names of all folders that are kept: 32 MiB.
const NAMES_KEPT: usize = 2 << 20;
const FOLDERS_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_folders_with_too_many_are_not_kept() {
        let index = NameIndex::new();
        let scan = |learn: Learn<'_>| {
            for place in 0..100_u64 {
                assert!(learn(&(place / 2).to_le_bytes(), place).is_continue());
            }
            Ok(())
        };
        let places = |name: u64| index.places(1, &name.to_le_bytes(), scan).unwrap();
        assert_eq!(places(7).unwrap(), [14, 15]);
        assert_eq!(places(50).unwrap(), [0_u64; 0]);
        let endless = |learn: Learn<'_>| {
            let mut place = 0;
            while learn(b"", place).is_continue() {
                place += 1;
            }
            Ok(())
        };
        assert!(index.places(2, b"", endless).unwrap().is_none());
        let hurt = |_: Learn<'_>| Err(GuestError::Invalid);
        assert!(index.places(3, b"", hurt).unwrap().is_none());
    }
}
