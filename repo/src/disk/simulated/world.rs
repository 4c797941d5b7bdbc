//! What a simulated disk holds, and what goes wrong with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::chance::Chance;
use super::content::{Fate, FileContent};
use super::{DiskError, Effect, Operation};

/// Everything on the disk, and the plan of what goes wrong.
pub(super) struct World {
    pub(super) files: HashMap<u64, FileContent>,
    pub(super) folders: BTreeMap<PathBuf, Folder>,
    pub(super) next_file: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) operations: u64,
    pub(super) failures: Vec<Failure>,
    pub(super) bytes_left: Option<u64>,
    pub(super) stop: Option<(u64, Effect)>,
    pub(super) dead: bool,
    /// There is no direct input and output: all goes through the page cache.
    pub(super) all_cached: bool,
    pub(super) chance: Chance,
    /// What went wrong so far, in words, and how often.
    pub(super) injected: BTreeMap<&'static str, u64>,
}

/// A call that is to fail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) operation: Operation,
    /// So many calls of its kind go well before.
    pub(super) nth: u64,
    pub(super) full: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            files: HashMap::new(),
            folders: BTreeMap::from([(PathBuf::new(), Folder::default())]),
            next_file: 0,
            locks: BTreeSet::new(),
            operations: 0,
            failures: Vec::new(),
            bytes_left: None,
            stop: None,
            dead: false,
            all_cached: false,
            chance: Chance::new(0),
            injected: BTreeMap::new(),
        }
    }
}

impl World {
    pub(super) fn check_alive(&self, action: &'static str, path: &Path) -> Result<(), DiskError> {
        if self.dead {
            Err(DiskError::new(
                action,
                path,
                io::Error::other("the disk is gone"),
            ))
        } else {
            Ok(())
        }
    }

    pub(super) fn count(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.injected.entry(what).or_default() += times;
        }
    }

    /// Counts a mutating call and tells what becomes of it.
    pub(super) fn begin(
        &mut self,
        operation: Operation,
        action: &'static str,
        path: &Path,
    ) -> Result<Act, DiskError> {
        self.check_alive(action, path)?;
        let number = self.operations;
        self.operations += 1;
        if let Some(full) = self.planned_failure(operation) {
            return Ok(Act::Fail { full });
        }
        match self.stop {
            Some((at, effect)) if at <= number => {
                self.dead = true;
                self.count("stops in the middle of a call", 1);
                Ok(match effect {
                    Effect::Nothing => Act::Skip,
                    Effect::Half if operation == Operation::Write => Act::Half,
                    Effect::Half => Act::Skip,
                    Effect::Whole => Act::DoUnanswered,
                })
            }
            _ => Ok(Act::Do),
        }
    }

    /// Tells whether a call that changes nothing goes well.
    pub(super) fn look(
        &mut self,
        operation: Operation,
        action: &'static str,
        path: &Path,
    ) -> Result<(), DiskError> {
        self.check_alive(action, path)?;
        match self.planned_failure(operation) {
            Some(full) => Err(failure(action, path, full)),
            None => Ok(()),
        }
    }

    fn planned_failure(&mut self, operation: Operation) -> Option<bool> {
        let mut fails = None;
        self.failures.retain_mut(|failure| {
            if failure.operation != operation {
                return true;
            }
            if failure.nth == 0 {
                fails = Some(failure.full);
            }
            failure.nth = failure.nth.wrapping_sub(1);
            failure.nth != u64::MAX
        });
        if let Some(full) = fails {
            self.count(
                if full {
                    FAILED_FOR_SPACE
                } else {
                    operation.failure()
                },
                1,
            );
        }
        fails
    }

    /// Takes as much of the space as there is, up to `wanted`.
    pub(super) fn take_space(&mut self, wanted: u64) -> u64 {
        let Some(left) = &mut self.bytes_left else {
            return wanted;
        };
        let taken = wanted.min(*left);
        *left -= taken;
        if taken < wanted {
            self.count(FULL, 1);
        }
        taken
    }

    /// Refuses if nothing more fits, not even a name.
    pub(super) fn check_space(
        &mut self,
        action: &'static str,
        path: &Path,
    ) -> Result<(), DiskError> {
        if self.bytes_left != Some(0) {
            return Ok(());
        }
        self.count(FULL, 1);
        Err(failure(action, path, true))
    }

    pub(super) fn give_space(&mut self, bytes: u64) {
        if let Some(left) = &mut self.bytes_left {
            *left = left.saturating_add(bytes);
        }
    }

    /// Adds a file that was synced with this content, under no name yet.
    pub(super) fn new_file(&mut self, content: Vec<u8>) -> u64 {
        let number = self.next_file;
        self.next_file += 1;
        self.files.insert(number, FileContent::synced(content));
        number
    }

    pub(super) fn file_number(&self, path: &Path) -> Option<u64> {
        let (folder, name) = split(path);
        match self.folders.get(&folder)?.current.get(&name)? {
            Entry::File(number) => Some(*number),
            Entry::Folder => None,
        }
    }

    /// Length of what `path` names; 0 if that is no file.
    pub(super) fn length_of(&self, path: &Path) -> u64 {
        self.file_number(path)
            .and_then(|number| self.files.get(&number))
            .map_or(0, |file| file.current.len() as u64)
    }

    pub(super) fn folder(
        &mut self,
        action: &'static str,
        path: &Path,
    ) -> Result<&mut Folder, DiskError> {
        let named = path.as_os_str().is_empty() || {
            let (parent, name) = split(path);
            self.folders
                .get(&parent)
                .is_some_and(|parent| parent.current.get(&name) == Some(&Entry::Folder))
        };
        self.folders
            .get_mut(path)
            .filter(|_| named)
            .ok_or_else(|| DiskError::new(action, path, io::ErrorKind::NotFound))
    }

    /// Makes a folder, durable at once as `create_directory` promises when it is answered.
    pub(super) fn add_folder(&mut self, path: &Path, durable: bool) {
        let there = self.folder("create the folder", path).is_ok();
        let (parent, name) = split(path);
        if let Some(parent) = self.folders.get_mut(&parent) {
            parent.current.insert(name.clone(), Entry::Folder);
            if durable {
                parent.synced.insert(name, Entry::Folder);
            }
        }
        if !there {
            self.folders.insert(path.to_owned(), Folder::default());
        }
    }

    pub(super) fn folders_below(&self, path: &Path) -> Vec<PathBuf> {
        self.folders
            .keys()
            .filter(|folder| folder.starts_with(path))
            .cloned()
            .collect()
    }

    /// The same content, without plan, locks and files that no name can lead to any more.
    pub(super) fn copy(&self) -> Self {
        let named: BTreeSet<u64> = self.folders.values().flat_map(Folder::files).collect();
        let files = named
            .iter()
            .filter_map(|number| Some((*number, self.files.get(number)?.clone())));
        Self {
            files: files.collect(),
            folders: self.folders.clone(),
            next_file: self.next_file,
            all_cached: self.all_cached,
            chance: self.chance.clone(),
            injected: self.injected.clone(),
            ..Self::default()
        }
    }

    /// Keeps of every sector and of every name one of the states it had since it was last synced.
    pub(super) fn lose_power(&mut self, chance: &mut Chance) {
        let fates = chance.fates();
        let stale = self.stale_sectors(chance);
        let mut numbers: Vec<u64> = self.files.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let fate = chance.fate(fates.files);
            if let Some(file) = self.files.get_mut(&number) {
                let lost = file.lose_power(fate, &stale, chance);
                self.count("writes lost", lost.whole);
                self.count("writes torn", lost.torn);
            }
        }
        let mut lost = 0;
        for folder in self.folders.values_mut() {
            lost += folder.lose_power(chance.fate(fates.names), chance);
        }
        self.count("names lost or come back", lost);
        self.count("power failures", 1);
    }

    /// What blocks may hold that are given to a file and not yet written: bits of other files.
    fn stale_sectors(&self, chance: &mut Chance) -> Vec<Vec<u8>> {
        if chance.below(3) > 0 {
            return Vec::new();
        }
        let mut numbers: Vec<u64> = self.files.keys().copied().collect();
        numbers.sort_unstable();
        let sectors = numbers.iter().filter_map(|number| {
            let content = &self.files.get(number)?.current;
            let count = content.len() / SECTOR_BYTES;
            let at = chance.below(count) * SECTOR_BYTES;
            content.get(at..at + SECTOR_BYTES).map(<[u8]>::to_vec)
        });
        sectors.take(STALE_SECTORS_MAX).collect()
    }

    /// A failed sync: the kernel has dropped some of what it was to write, and takes all of it for clean.
    pub(super) fn drop_unsynced(&mut self, number: u64, reads_show_it: bool) {
        let mut chance = self.chance.clone();
        if let Some(file) = self.files.get_mut(&number) {
            let dropped = file.drop_unsynced(reads_show_it, &mut chance);
            self.count("writes dropped by a failed sync", dropped);
        }
        self.chance = chance;
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    pub(super) synced: BTreeMap<String, Entry>,
    pub(super) current: BTreeMap<String, Entry>,
}

impl Folder {
    fn files(&self) -> impl Iterator<Item = u64> {
        self.synced
            .values()
            .chain(self.current.values())
            .filter_map(|entry| match entry {
                Entry::File(number) => Some(*number),
                Entry::Folder => None,
            })
    }

    /// Gives the number of names that are not as they were shown last.
    fn lose_power(&mut self, fate: Fate, chance: &mut Chance) -> u64 {
        let names: BTreeSet<String> = self
            .synced
            .keys()
            .chain(self.current.keys())
            .cloned()
            .collect();
        let mut lost = 0;
        for name in names {
            let (old, new) = (self.synced.get(&name), self.current.get(&name));
            if old == new {
                continue;
            }
            let kept = if chance.keeps(fate) {
                new.copied()
            } else {
                lost += 1;
                old.copied()
            };
            match kept {
                Some(entry) => self.synced.insert(name, entry),
                None => self.synced.remove(&name),
            };
        }
        self.current = self.synced.clone();
        lost
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    File(u64),
    Folder,
}

/// What becomes of a mutating call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Do,
    DoUnanswered,
    Half,
    Skip,
    /// It fails, for lack of space or by an input/output error; what it does meanwhile is the call's own affair.
    Fail {
        full: bool,
    },
}

impl Act {
    /// Whether all that was asked for is done.
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Do | Self::DoUnanswered)
    }

    pub(super) fn answer(self, action: &'static str, path: &Path) -> Result<(), DiskError> {
        match self {
            Self::Do => Ok(()),
            Self::Fail { full } => Err(failure(action, path, full)),
            _ => Err(DiskError::new(
                action,
                path,
                io::Error::other("the world stopped"),
            )),
        }
    }
}

impl Operation {
    /// Its failures in words.
    fn failure(self) -> &'static str {
        match self {
            Self::Write => "failed writes",
            Self::Sync => "failed syncs",
            Self::Create => "failed creations",
            Self::Publish => "failed publications",
            Self::Remove => "failed removals",
            Self::Resize => "failed resizes",
            Self::Read => "failed reads",
            Self::List => "failed listings",
        }
    }
}

pub(super) fn failure(action: &'static str, path: &Path, full: bool) -> DiskError {
    let source = if full {
        io::Error::from(io::ErrorKind::StorageFull)
    } else {
        io::Error::other("injected input/output error")
    };
    DiskError::new(action, path, source)
}

pub(super) fn split(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    (folder, name)
}

/// Unit in which a torn write is old or new.
pub(super) const SECTOR_BYTES: usize = 512;

const STALE_SECTORS_MAX: usize = 16;

const FULL: &str = "calls without space";

const FAILED_FOR_SPACE: &str = "failed calls for lack of space";
