//! What a simulated disk holds, and what power failure makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::{DiskError, Effect, Operation};

/// Everything on the disk, and the plan of what goes wrong.
pub(super) struct World {
    pub(super) files: HashMap<u64, FileContent>,
    pub(super) folders: BTreeMap<PathBuf, Folder>,
    next_file: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) operations: u64,
    pub(super) failures: Vec<(Operation, u64)>,
    pub(super) bytes_left: Option<u64>,
    pub(super) stop: Option<(u64, Effect)>,
    pub(super) dead: bool,
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
        let mut fails = false;
        self.failures.retain_mut(|(kind, nth)| {
            if *kind != operation {
                return true;
            }
            fails |= *nth == 0;
            *nth = nth.wrapping_sub(1);
            *nth != u64::MAX
        });
        if fails {
            return Err(DiskError::new(
                action,
                path,
                io::Error::other("injected input/output error"),
            ));
        }
        match self.stop {
            Some((at, effect)) if at <= number => {
                self.dead = true;
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

    pub(super) fn take_space(&mut self, bytes: u64) -> bool {
        match &mut self.bytes_left {
            Some(left) if *left < bytes => false,
            Some(left) => {
                *left -= bytes;
                true
            }
            None => true,
        }
    }

    pub(super) fn new_file(&mut self, content: Vec<u8>) -> u64 {
        let number = self.next_file;
        self.next_file += 1;
        self.files.insert(
            number,
            FileContent {
                synced: content.clone(),
                current: content,
                pending: Vec::new(),
            },
        );
        number
    }

    pub(super) fn file_number(&self, path: &Path) -> Option<u64> {
        let (folder, name) = split(path);
        match self.folders.get(&folder)?.current.get(&name)? {
            Entry::File(number) => Some(*number),
            Entry::Folder => None,
        }
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

    /// Makes a folder, durable at once as `create_directory` promises.
    pub(super) fn add_folder(&mut self, path: &Path) {
        if self.folder("create the folder", path).is_ok() {
            return;
        }
        let (parent, name) = split(path);
        if let Some(parent) = self.folders.get_mut(&parent) {
            parent.current.insert(name.clone(), Entry::Folder);
            parent.synced.insert(name, Entry::Folder);
        }
        self.folders.insert(path.to_owned(), Folder::default());
    }

    pub(super) fn folders_below(&self, path: &Path) -> Vec<PathBuf> {
        self.folders
            .keys()
            .filter(|folder| folder.starts_with(path))
            .cloned()
            .collect()
    }

    pub(super) fn copy(&self) -> Self {
        Self {
            files: self.files.clone(),
            folders: self.folders.clone(),
            next_file: self.next_file,
            operations: 0,
            ..Self::default()
        }
    }

    /// Keeps of every sector and of every name one of the states it had since it was last synced.
    pub(super) fn lose_power(&mut self, chance: &mut Chance) {
        let mood = chance.mood();
        let mut numbers: Vec<u64> = self.files.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            if let Some(file) = self.files.get_mut(&number) {
                file.lose_power(mood, chance);
            }
        }
        for folder in self.folders.values_mut() {
            let names: BTreeSet<String> = folder
                .synced
                .keys()
                .chain(folder.current.keys())
                .cloned()
                .collect();
            for name in names {
                let (old, new) = (
                    folder.synced.get(&name).copied(),
                    folder.current.get(&name).copied(),
                );
                match if chance.keeps(mood) { new } else { old } {
                    Some(entry) => folder.synced.insert(name, entry),
                    None => folder.synced.remove(&name),
                };
            }
            folder.current = folder.synced.clone();
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    pub(super) synced: BTreeMap<String, Entry>,
    pub(super) current: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    File(u64),
    Folder,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FileContent {
    pub(super) synced: Vec<u8>,
    pub(super) current: Vec<u8>,
    /// What changed since the last sync, in order.
    pub(super) pending: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(usize),
}

impl FileContent {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn lose_power(&mut self, mood: Mood, chance: &mut Chance) {
        let pending = std::mem::take(&mut self.pending);
        match mood {
            Mood::LoseAll => {}
            Mood::KeepAll => self.synced = self.current.clone(),
            Mood::Mixed => {
                // Sector by sector: the state after some number of the changes. The length is chosen likewise.
                let mut state = self.synced.clone();
                let mut lengths = vec![state.len()];
                let mut after: Vec<(u64, Vec<u8>)> = Vec::new();
                for change in &pending {
                    change.apply(&mut state);
                    lengths.push(state.len());
                    after.extend(change.sectors(&state));
                }
                let mut kept = self.synced.clone();
                for (offset, sector) in after {
                    if chance.below(2) == 0 {
                        Change::Write {
                            offset,
                            bytes: sector,
                        }
                        .apply(&mut kept);
                    }
                }
                let length = lengths
                    .get(chance.below(lengths.len()))
                    .copied()
                    .unwrap_or(0);
                kept.resize(length, 0);
                self.synced = kept;
            }
        }
        self.current = self.synced.clone();
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Write { offset, bytes } => {
                let Ok(start) = usize::try_from(*offset) else {
                    return;
                };
                let end = start + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(place) = content.get_mut(start..end) {
                    place.copy_from_slice(bytes);
                }
            }
        }
    }

    /// The sectors that the change touched, as `state` has them after it.
    fn sectors(&self, state: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let Self::Write { offset, bytes } = self else {
            return Vec::new();
        };
        let end = offset + bytes.len() as u64;
        let first = offset - offset % SECTOR_BYTES;
        let sector = |start: u64| {
            let from = usize::try_from(start).ok()?;
            let to = usize::try_from((start + SECTOR_BYTES).min(state.len() as u64)).ok()?;
            Some((start, state.get(from..to)?.to_vec()))
        };
        (first..end)
            .step_by(SECTOR_STEP)
            .filter_map(sector)
            .collect()
    }
}

/// What becomes of a mutating call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Do,
    DoUnanswered,
    Half,
    Skip,
}

impl Act {
    pub(super) fn answer(self, action: &'static str, path: &Path) -> Result<(), DiskError> {
        match self {
            Self::Do => Ok(()),
            _ => Err(DiskError::new(
                action,
                path,
                io::Error::other("the world stopped"),
            )),
        }
    }
}

/// How a power failure treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    LoseAll,
    KeepAll,
    Mixed,
}

/// A small generator of choices (xorshift64*), the same everywhere for the same seed.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap_or(0) % bound.max(1)
    }

    fn mood(&mut self) -> Mood {
        match self.below(6) {
            0 => Mood::LoseAll,
            1 => Mood::KeepAll,
            _ => Mood::Mixed,
        }
    }

    fn keeps(&mut self, mood: Mood) -> bool {
        match mood {
            Mood::LoseAll => false,
            Mood::KeepAll => true,
            Mood::Mixed => self.below(2) == 0,
        }
    }
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
const SECTOR_BYTES: u64 = 512;
const SECTOR_STEP: usize = 512;
