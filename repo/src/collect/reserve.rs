//! Space that is kept free of backups, so that points can be expired and collected on a full disk.

use std::io::IoSlice;
use std::path::Path;

use crate::disk::{Caching, Disk};
use crate::error::RepoError;
use crate::repository::Repository;

impl Repository {
    /// Makes the reserve, as large as it should be, unless the storage has no room for it.
    ///
    /// # Errors
    /// If the storage fails; that it is full is no error.
    pub fn make_reserve(&self, bytes: u64) -> Result<(), RepoError> {
        let disk = self.disk();
        let found = self.reserve_length()?;
        if found == Some(bytes) || (found.is_none() && bytes == 0) {
            return Ok(());
        }
        self.give_up_reserve()?;
        if bytes == 0 || disk.space()?.available_bytes < bytes.saturating_mul(2) {
            return Ok(());
        }
        match write_reserve(disk, bytes) {
            Err(error) if error.is_full() => self.give_up_reserve(),
            other => other,
        }
    }

    /// Does `work`; if the storage is full, gives the reserve up and does it once more.
    pub(crate) fn with_reserve<T>(
        &self,
        work: impl Fn() -> Result<T, RepoError>,
    ) -> Result<T, RepoError> {
        match work() {
            Err(error) if error.is_full() && self.reserve_length()?.is_some() => {
                tracing::warn!("the storage is full: the reserve is given up");
                self.give_up_reserve()?;
                work()
            }
            other => other,
        }
    }

    /// Gives the reserve up if there is little room beside it. Says whether the storage is full.
    pub(super) fn give_up_reserve_if_full(&self) -> Result<bool, RepoError> {
        let space = self.disk().space()?;
        let reserve = self.reserve_length()?;
        let is_full = space.available_bytes < reserve.unwrap_or(0).max(ROOM_BYTES_MIN);
        if is_full && reserve.is_some() {
            tracing::warn!("the storage is full: the reserve is given up for the collection");
            self.give_up_reserve()?;
        }
        Ok(is_full)
    }

    fn give_up_reserve(&self) -> Result<(), RepoError> {
        give_up(self.disk())
    }

    fn reserve_length(&self) -> Result<Option<u64>, RepoError> {
        let items = self.disk().list(Path::new(""))?;
        let reserve = items.into_iter().find(|item| item.name == RESERVE);
        Ok(reserve.map(|item| item.length_bytes))
    }
}

/// Makes sure of the room that opening needs, by giving up the reserve if need be: the index makes new files whenever it is opened,
/// and ends the process if there is no room for them.
pub(crate) fn make_room_to_open(disk: &dyn Disk, root: &Path) -> Result<(), RepoError> {
    let available = || Ok::<_, RepoError>(disk.space()?.available_bytes);
    // What is in its log becomes a table.
    let files = disk.list(Path::new("index")).unwrap_or_default();
    let logs = files.iter().filter(|file| file.name.ends_with(".log"));
    let needed_bytes = OPENING_BYTES + logs.map(|log| log.length_bytes).sum::<u64>();
    if available()? >= needed_bytes {
        return Ok(());
    }
    give_up(disk)?;
    match available()? {
        enough if enough >= needed_bytes => {
            tracing::warn!("the storage is full: the reserve is given up to open the repository");
            Ok(())
        }
        available_bytes => Err(RepoError::NoRoom {
            path: root.to_owned(),
            available_bytes,
            needed_bytes,
        }),
    }
}

fn give_up(disk: &dyn Disk) -> Result<(), RepoError> {
    match disk.remove(Path::new(RESERVE)) {
        Err(error) if error.is_missing() => return Ok(()),
        other => other?,
    }
    Ok(disk.sync_directory(Path::new(""))?)
}

/// Fills the reserve with bytes that do not compress, so that no file system can do without the space.
fn write_reserve(disk: &dyn Disk, bytes: u64) -> Result<(), RepoError> {
    let file = disk.create(Path::new(RESERVE), Caching::Cached)?;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; BLOCK_BYTES];
    let mut written = 0;
    while written < bytes {
        noise.fill(&mut block);
        let now =
            usize::try_from(bytes - written).map_or(BLOCK_BYTES, |rest| rest.min(BLOCK_BYTES));
        let part = block.get(..now).unwrap_or_default();
        file.write_at(written, &[IoSlice::new(part)])?;
        written += now as u64;
    }
    file.sync()?;
    Ok(disk.sync_directory(Path::new(""))?)
}

const RESERVE: &str = "reserve";
const BLOCK_BYTES: usize = 1 << 20;

/// Room for the new files of an index that is opened, besides a table of what its log holds.
const OPENING_BYTES: u64 = 4 << 20;

/// A storage with less than this is full.
const ROOM_BYTES_MIN: u64 = 32 << 20;
