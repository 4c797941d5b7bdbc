//! Packs that are about to be removed: no new backup relies on them, and a mark beside each says since when.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::format::{pack_path, parse_pack_name};
use super::parity::parity_path;
use super::set::PackSet;
use crate::catalog::{open_head, seal_head};
use crate::chunk::ChunkId;
use crate::clock::{Clock, UnixNanoseconds};
use crate::disk::Disk;
use crate::error::RepoError;

/// Since when a pack is condemned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condemned {
    /// By the time that only goes forward.
    pub(crate) since: UnixNanoseconds,
    /// Backups that took an earlier turn may rely on the pack.
    pub(crate) turn: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMark {
    since_unix_nanoseconds: u64,
}

impl PackSet {
    /// Makes that no new backup relies on a pack, in memory and durably. `take_turn` is called in between: whoever
    /// takes a later turn knows.
    pub(crate) fn condemn(
        &self,
        number: u32,
        since: UnixNanoseconds,
        take_turn: impl FnOnce() -> u64,
    ) -> Result<(), RepoError> {
        let Some(summary) = self.summary(number) else {
            return Ok(());
        };
        let entry = Condemned {
            since,
            turn: u64::MAX,
        };
        self.condemned.write().insert(number, entry);
        let turn = take_turn();
        let entry = Condemned { since, turn };
        self.condemned.write().insert(number, entry);
        let stored = StoredMark {
            since_unix_nanoseconds: since.0,
        };
        let body = serde_json::to_string_pretty(&stored).expect("a mark has only text keys");
        let path = mark_path(number, summary.epoch);
        match self
            .disk
            .publish(&path, &seal_head(KIND, VERSION, body.as_bytes()))
        {
            Err(error) if !error.is_taken() => {
                self.condemned.write().remove(&number);
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Takes a condemnation back.
    pub(crate) fn pardon(&self, number: u32) -> Result<(), RepoError> {
        if let Some(summary) = self.summary(number) {
            self.remove_mark(number, summary.epoch)?;
        }
        self.condemned.write().remove(&number);
        Ok(())
    }

    /// Removes a condemned pack for good. Gives its length.
    pub(crate) fn remove(&self, number: u32) -> Result<u64, RepoError> {
        let Some(summary) = self.summary(number) else {
            return Ok(0);
        };
        let path = pack_path(number, summary.epoch);
        match self.disk.remove(&path) {
            Err(error) if !error.is_missing() => return Err(error.into()),
            _ => {}
        }
        match self.disk.remove(&parity_path(number, summary.epoch)) {
            Err(error) if !error.is_missing() => return Err(error.into()),
            _ => {}
        }
        // The pack goes first: a mark alone says nothing, a pack alone is one that nobody needs.
        self.remove_mark(number, summary.epoch)?;
        self.forget(number);
        self.condemned.write().remove(&number);
        Ok(summary.length_bytes)
    }

    /// Notes that a record was read from a condemned pack, which must therefore stay.
    pub(crate) fn note_need(&self, number: u32, id: ChunkId) {
        if self.is_condemned(number) {
            let mut needed = self.needed.lock();
            if needed.len() < NEEDED_MAX {
                needed.push((number, id));
            }
        }
    }

    /// What was read from condemned packs since this was last asked.
    pub(crate) fn take_needed(&self) -> Vec<(u32, ChunkId)> {
        std::mem::take(&mut self.needed.lock())
    }

    pub(crate) fn is_condemned(&self, number: u32) -> bool {
        self.condemned.read().contains_key(&number)
    }

    /// All condemned packs.
    pub(crate) fn all_condemned(&self) -> Vec<(u32, Condemned)> {
        let condemned = self.condemned.read();
        condemned
            .iter()
            .map(|(number, entry)| (*number, *entry))
            .collect()
    }

    fn remove_mark(&self, number: u32, epoch: u32) -> Result<(), RepoError> {
        let path = mark_path(number, epoch);
        match self.disk.remove(&path) {
            Err(error) if !error.is_missing() => return Err(error.into()),
            _ => {}
        }
        self.disk
            .sync_directory(path.parent().unwrap_or(Path::new("")))?;
        Ok(())
    }

    /// Removes a mark whose pack is gone: a crash came between.
    pub(super) fn drop_stray_mark(&self, number: u32) -> Result<(), RepoError> {
        self.remove_mark(number, 1)
    }
}

/// The number in the name of a mark.
pub(super) fn condemned_pack(name: &str) -> Option<u32> {
    parse_pack_name(name.strip_suffix(SUFFIX)?).map(|(number, _)| number)
}

/// Since when a pack is condemned; since now if its mark cannot be read.
pub(super) fn read_mark(
    disk: &dyn Disk,
    number: u32,
    epoch: u32,
    clock: &dyn Clock,
) -> Result<UnixNanoseconds, RepoError> {
    let path = mark_path(number, epoch);
    let text = disk.read(&path, MARK_BYTES_MAX)?;
    let what = format!("mark {}", path.display());
    let body = open_head(&what, KIND, VERSION, &text);
    let stored = body
        .ok()
        .and_then(|(_, body)| serde_json::from_slice(body).ok());
    Ok(match stored {
        Some(StoredMark {
            since_unix_nanoseconds,
        }) => UnixNanoseconds(since_unix_nanoseconds),
        None => {
            tracing::warn!(
                mark = what,
                "a mark cannot be read: its pack counts as condemned since now"
            );
            clock.now()
        }
    })
}

fn mark_path(number: u32, epoch: u32) -> PathBuf {
    let mut path = pack_path(number, epoch).into_os_string();
    path.push(SUFFIX);
    PathBuf::from(path)
}

/// Reads from condemned packs that are remembered; one is enough for a pack to stay.
const NEEDED_MAX: usize = 4096;

const SUFFIX: &str = ".condemned";
const KIND: &str = "condemned";
const VERSION: u32 = 1;
const MARK_BYTES_MAX: u64 = 4096;
