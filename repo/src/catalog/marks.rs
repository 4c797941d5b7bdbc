//! Marks of restore points: stars and locks, in files beside the manifests (`docs/formats/catalog.md`).
//!
//! A mark is never changed. A lock is made longer by one more mark, and only what a stronger mark makes needless, or
//! what may be lifted, is removed. A mark that cannot be read counts as the strongest there is.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::UnixNanoseconds;
use crate::disk::Disk;
use crate::error::RepoError;
use crate::keys::KeyRing;

/// Who may lift a lock before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// An administrator, with a second factor of confirmation.
    Governance,
    /// Nobody.
    Compliance,
}

impl LockMode {
    /// The rule in a few words.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Governance => "governance: an administrator can lift it with a one-time code",
            Self::Compliance => "compliance: nobody can lift it",
        }
    }
}

/// A lock of a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// Who may lift it.
    pub mode: LockMode,
    /// Until when it holds, by the trusted time.
    pub until: UnixNanoseconds,
}

/// What keeps a restore point from being expired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PointMarks {
    /// It is kept for ever, until the star is taken off.
    pub starred: bool,
    /// Locks that hold, the one that nobody lifts last.
    pub locks: Vec<Lock>,
    /// A mark that cannot be read: as long as it is there, nothing is removed.
    pub damaged: Option<String>,
}

/// When a lock authority was made, by the trusted time. It has a say over locks that are younger than itself, so that who
/// makes one lifts nothing with it that was locked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct AuthorityAge(pub UnixNanoseconds);

/// All marks of one point.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks {
    pub(super) starred: bool,
    pub(super) locks: Vec<LockMark>,
    pub(super) damaged: Option<String>,
}

/// One lock mark.
#[derive(Debug, Clone)]
pub(crate) struct LockMark {
    /// Its number among the point's lock marks.
    pub(crate) number: u32,
    pub(crate) lock: Lock,
    /// When it was made, by the trusted time.
    pub(crate) placed: UnixNanoseconds,
    /// The packs that the point needs.
    pub(crate) packs: PackRanges,
    /// From how many marks ago some of `packs` were taken over.
    pub(crate) inherited: u32,
}

/// Pack numbers, as ascending ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PackRanges(Vec<RangeInclusive<u32>>);

impl LockMark {
    /// Whether an authority may lift it before its time.
    pub(crate) fn yields_to(&self, authority: AuthorityAge) -> bool {
        self.lock.mode == LockMode::Governance && self.placed >= authority.0
    }
}

/// The files of a workload's folder that are marks, by point.
pub(crate) type FolderMarks = BTreeMap<u64, Marks>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredStar {
    repository: Uuid,
    file: String,
    placed_unix_nanoseconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLock {
    repository: Uuid,
    file: String,
    mode: LockMode,
    until_unix_nanoseconds: u64,
    placed_unix_nanoseconds: u64,
    packs: Vec<(u32, u32)>,
    inherited: u32,
}

impl Marks {
    /// The marks as they stand at `now`.
    pub(crate) fn view(&self, now: UnixNanoseconds) -> PointMarks {
        let strongest = |mode| {
            let marks = self.locks.iter().filter(|mark| mark.lock.mode == mode);
            let until = marks.map(|mark| mark.lock.until).max()?;
            (until > now).then_some(Lock { mode, until })
        };
        PointMarks {
            starred: self.starred,
            locks: [LockMode::Governance, LockMode::Compliance]
                .into_iter()
                .filter_map(strongest)
                .collect(),
            damaged: self.damaged.clone(),
        }
    }

    /// When the oldest lock that holds at `now` was made. One that cannot be read may be the oldest of all.
    pub(crate) fn oldest(&self, now: UnixNanoseconds) -> Option<UnixNanoseconds> {
        if self.damaged.is_some() {
            return Some(UnixNanoseconds(0));
        }
        let held = self.locks.iter().filter(|mark| mark.lock.until > now);
        held.map(|mark| mark.placed).min()
    }

    /// A time that has certainly passed.
    pub(crate) fn newest(&self) -> Option<UnixNanoseconds> {
        self.locks.iter().map(|mark| mark.placed).max()
    }

    /// Whether a lock holds at `now`, or may hold.
    pub(crate) fn is_locked(&self, now: UnixNanoseconds) -> bool {
        self.damaged.is_some() || self.locks.iter().any(|mark| mark.lock.until > now)
    }
}

/// A workload's folder, where marks are read and made.
pub(super) struct Place<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) keys: &'a KeyRing,
    pub(super) repository: Uuid,
    pub(super) folder: &'a Path,
}

impl Place<'_> {
    /// Reads the mark in `file`, if its name is that of one, into `found`.
    pub(super) fn read(&self, file: &str, found: &mut FolderMarks) -> bool {
        let Some((sequence, kind)) = MarkName::parse(file) else {
            return false;
        };
        let marks = found.entry(sequence).or_default();
        let path = self.folder.join(file);
        match kind {
            MarkName::Star => {
                marks.starred = true;
                if let Err(error) = self.read_star(&path) {
                    tracing::warn!(%error, "a star is damaged and counts all the same");
                }
            }
            MarkName::Lock(number) => match self.read_lock(&path, number) {
                Ok(mark) => marks.locks.push(mark),
                Err(error) => marks.damaged = Some(error.to_string()),
            },
        }
        true
    }

    /// Makes a star durable. One that is there already is fine.
    pub(super) fn publish_star(
        &self,
        sequence: u64,
        placed: UnixNanoseconds,
    ) -> Result<(), RepoError> {
        let path = MarkName::Star.path(self.folder, sequence);
        let stored = StoredStar {
            repository: self.repository,
            file: path.display().to_string(),
            placed_unix_nanoseconds: placed.0,
        };
        let body = serde_json::to_string_pretty(&stored).expect("a star has only text keys");
        let text = self.keys.seal_text(STAR, VERSION, &path, &body)?;
        match self.disk.publish(&path, &text) {
            Err(error) if !error.is_taken() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Makes a lock mark durable and gives its path.
    pub(super) fn publish_lock(
        &self,
        sequence: u64,
        mark: &LockMark,
    ) -> Result<PathBuf, RepoError> {
        let path = MarkName::Lock(mark.number).path(self.folder, sequence);
        let stored = StoredLock {
            repository: self.repository,
            file: path.display().to_string(),
            mode: mark.lock.mode,
            until_unix_nanoseconds: mark.lock.until.0,
            placed_unix_nanoseconds: mark.placed.0,
            packs: mark.packs.ends().collect(),
            inherited: mark.inherited,
        };
        let body = serde_json::to_string(&stored).expect("a lock has only text keys");
        let text = self.keys.seal_text(LOCK, VERSION, &path, &body)?;
        self.disk.publish(&path, &text)?;
        Ok(path)
    }

    fn read_star(&self, path: &Path) -> Result<(), RepoError> {
        let text = self.disk.read(path, MARK_BYTES_MAX)?;
        let what = format!("mark {}", path.display());
        let (_, body) = self.keys.open_text(&what, STAR, VERSION, path, &text)?;
        let stored: StoredStar =
            serde_json::from_str(&body).map_err(|error| corrupt(path, error.to_string()))?;
        check_belongs(path, self.repository, stored.repository, &stored.file)
    }

    fn read_lock(&self, path: &Path, number: u32) -> Result<LockMark, RepoError> {
        let text = self.disk.read(path, MARK_BYTES_MAX)?;
        decode_lock(&text, self.keys, self.repository, path, number)
    }
}

/// What the name of a mark's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkName {
    Star,
    Lock(u32),
}

impl MarkName {
    /// Sequence and sort of a mark from the name of its file.
    fn parse(file: &str) -> Option<(u64, Self)> {
        let (sequence, rest) = file.split_once('.')?;
        let sequence = super::format::parse_sequence(sequence)?;
        if rest == "star" {
            return Some((sequence, Self::Star));
        }
        let digits = rest.strip_prefix("lock.")?;
        let plain = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = plain.then(|| digits.parse().ok()).flatten()?;
        Some((sequence, Self::Lock(number)))
    }

    /// The file's path in a workload's folder.
    pub(super) fn path(self, folder: &Path, sequence: u64) -> PathBuf {
        folder.join(match self {
            Self::Star => format!("{sequence:020}.star"),
            Self::Lock(number) => format!("{sequence:020}.lock.{number:08}"),
        })
    }
}

fn decode_lock(
    text: &[u8],
    keys: &KeyRing,
    repository: Uuid,
    path: &Path,
    number: u32,
) -> Result<LockMark, RepoError> {
    let what = format!("mark {}", path.display());
    let (_, body) = keys.open_text(&what, LOCK, VERSION, path, text)?;
    let stored: StoredLock =
        serde_json::from_str(&body).map_err(|error| corrupt(path, error.to_string()))?;
    check_belongs(path, repository, stored.repository, &stored.file)?;
    Ok(LockMark {
        number,
        lock: Lock {
            mode: stored.mode,
            until: UnixNanoseconds(stored.until_unix_nanoseconds),
        },
        placed: UnixNanoseconds(stored.placed_unix_nanoseconds),
        packs: PackRanges::from_ends(stored.packs)
            .ok_or_else(|| corrupt(path, "its ranges of packs make no sense".to_owned()))?,
        inherited: stored.inherited,
    })
}

/// A mark says where it belongs, so that a copy under another name marks nothing.
fn check_belongs(path: &Path, ours: Uuid, theirs: Uuid, file: &str) -> Result<(), RepoError> {
    if theirs != ours {
        return Err(corrupt(path, format!("it belongs to repository {theirs}")));
    }
    if Path::new(file) != path {
        return Err(corrupt(path, format!("it is the mark {file}")));
    }
    Ok(())
}

fn corrupt(path: &Path, detail: String) -> RepoError {
    RepoError::Corrupt {
        what: format!("mark {}", path.display()),
        detail,
    }
}

impl PackRanges {
    /// Puts numbers in order, neighbours together.
    pub(crate) fn new(numbers: impl IntoIterator<Item = u32>) -> Self {
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some(last) if number <= last.end().saturating_add(1) => {
                    *last = *last.start()..=number;
                }
                _ => ranges.push(number..=number),
            }
        }
        Self(ranges)
    }

    /// First and last of each range.
    fn ends(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().map(|range| (*range.start(), *range.end()))
    }

    fn from_ends(ends: Vec<(u32, u32)>) -> Option<Self> {
        let apart = |pair: &[(u32, u32)]| match pair {
            [(_, end), (start, _)] => end.checked_add(1).is_some_and(|next| next < *start),
            _ => true,
        };
        let sound = ends.iter().all(|(first, last)| first <= last) && ends.windows(2).all(apart);
        sound.then(|| Self(ends.into_iter().map(|(first, last)| first..=last).collect()))
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        let behind = self.0.partition_point(|range| *range.start() <= number);
        behind
            .checked_sub(1)
            .and_then(|before| self.0.get(before))
            .is_some_and(|range| range.contains(&number))
    }
}

/// Feeds `bytes` to the decoder of marks. Whatever they are, nothing panics.
#[doc(hidden)]
pub fn fuzz_mark(bytes: &[u8]) {
    let path = Path::new("points/fuzz/00000000000000000001.lock.00000001");
    let plain = KeyRing::plain();
    drop(decode_lock(bytes, &plain, Uuid::nil(), path, 1));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let place = Place {
            disk: &crate::disk::SimulatedDisk::new(),
            keys: &plain,
            repository: Uuid::nil(),
            folder: Path::new("points/fuzz"),
        };
        place.read(text, &mut FolderMarks::new());
        if let Ok(sealed) = plain.seal_text(LOCK, VERSION, path, text) {
            drop(decode_lock(&sealed, &plain, Uuid::nil(), path, 1));
        }
    }
}

const STAR: &str = "star";
const LOCK: &str = "lock";
const VERSION: u32 = 1;
/// The largest mark.
const MARK_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    fn mark(packs: &[u32]) -> LockMark {
        LockMark {
            number: 3,
            lock: Lock {
                mode: LockMode::Governance,
                until: UnixNanoseconds(500),
            },
            placed: UnixNanoseconds(100),
            packs: PackRanges::new(packs.iter().copied()),
            inherited: 2,
        }
    }

    fn rings() -> [KeyRing; 2] {
        let master = crate::keys::MasterKey::from_bytes([5; 32]);
        [KeyRing::plain(), KeyRing::new(master, Uuid::nil())]
    }

    #[test]
    fn a_lock_reads_back_and_any_changed_byte_makes_it_stronger() {
        for keys in rings() {
            let folder = Path::new("points/web");
            let disk = SimulatedDisk::new();
            disk.create_directory(folder).unwrap();
            let place = Place {
                disk: &disk,
                keys: &keys,
                repository: Uuid::nil(),
                folder,
            };
            let path = place.publish_lock(7, &mark(&[1, 2, 3, 9])).unwrap();
            let text = disk.read(&path, 10_000).unwrap();
            let file = path.file_name().unwrap().to_str().unwrap();
            let read = || {
                let mut found = FolderMarks::new();
                assert!(place.read(file, &mut found));
                found.remove(&7).unwrap()
            };
            let back = read();
            assert_eq!(
                format!("{:?}", back.locks),
                format!("{:?}", [mark(&[1, 2, 3, 9])])
            );
            assert!(back.is_locked(UnixNanoseconds(499)));
            assert!(!back.is_locked(UnixNanoseconds(500)));
            for byte in 0..text.len() {
                let mut hurt = text.clone();
                hurt[byte] ^= 1;
                disk.replace(&path, &hurt).unwrap();
                assert!(read().is_locked(UnixNanoseconds(u64::MAX)), "byte {byte}");
            }
        }
    }

    #[test]
    fn a_mark_of_another_point_marks_nothing_else() {
        for keys in rings() {
            let folder = Path::new("points/web");
            let disk = SimulatedDisk::new();
            disk.create_directory(folder).unwrap();
            let place = Place {
                disk: &disk,
                keys: &keys,
                repository: Uuid::nil(),
                folder,
            };
            let path = place.publish_lock(7, &mark(&[])).unwrap();
            let text = disk.read(&path, 10_000).unwrap();
            let other = MarkName::Lock(3).path(folder, 8);
            assert!(decode_lock(&text, &keys, Uuid::nil(), &path, 3).is_ok());
            assert!(decode_lock(&text, &keys, Uuid::nil(), &other, 3).is_err());
            assert!(decode_lock(&text, &keys, Uuid::max(), &path, 3).is_err());
        }
    }

    #[test]
    fn names_of_marks_are_told_from_others() {
        let number = "00000000000000000007";
        let parse = |rest: &str| MarkName::parse(&format!("{number}.{rest}"));
        assert_eq!(parse("star"), Some((7, MarkName::Star)));
        assert_eq!(parse("lock.00000012"), Some((7, MarkName::Lock(12))));
        for other in [
            "00000001",
            "expired",
            "lock",
            "lock.1",
            "lock.+0000012",
            "star.1",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(MarkName::parse("7.star"), None);
    }

    #[test]
    fn ranges_hold_what_was_put_in() {
        let ranges = PackRanges::new([5, 1, 2, 3, 9, 5, u32::MAX]);
        let ends: Vec<_> = ranges.ends().collect();
        assert_eq!(ends, [(1, 3), (5, 5), (9, 9), (u32::MAX, u32::MAX)]);
        for number in 0..12 {
            let held = [1, 2, 3, 5, 9].contains(&number);
            assert_eq!(ranges.contains(number), held, "{number}");
        }
        assert_eq!(PackRanges::from_ends(ends), Some(ranges));
        for bad in [
            vec![(3, 1)],
            vec![(1, 3), (3, 5)],
            vec![(1, 3), (4, 5)],
            vec![(1, u32::MAX), (1, 2)],
        ] {
            assert_eq!(PackRanges::from_ends(bad.clone()), None, "{bad:?}");
        }
    }
}
