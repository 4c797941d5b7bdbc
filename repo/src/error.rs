//! Why the repository refused or failed.

use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use crate::catalog::{LockMode, PointName, WorkloadName};
use crate::clock::UnixNanoseconds;
use crate::disk::DiskError;

/// Who must act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// Whoever called: the request makes no sense.
    Caller,
    /// The operator: configuration, rights, space.
    Operator,
    /// The storage: it failed, or what it gave back is damaged.
    Storage,
}

/// A call on the repository that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// A file or folder could not be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The folder holds no repository.
    #[error("{} is no repository: it has no superblock; make one with `holdfast init`", path.display())]
    NotARepository {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds one already.
    #[error("{} is a repository already", path.display())]
    AlreadyARepository {
        /// The folder.
        path: PathBuf,
    },
    /// The folder for a new repository has something in it.
    #[error("{} is not empty: give an empty or new folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{} is in use by another process: stop that daemon first", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There is too little room to open it.
    #[error(
        "the storage of {} is full: {available_bytes} bytes are free, and {needed_bytes} are needed to open it; remove something else from that storage or give it more room, or restore with `holdfast rescue`, which needs none",
        path.display()
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// What is free.
        available_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// It is encrypted and no key was given.
    #[error(
        "{} is encrypted: give its passphrase or key (--passphrase-file, --key-file or --key-command, or the same under [repository] in the configuration)",
        path.display()
    )]
    KeyNeeded {
        /// The folder.
        path: PathBuf,
    },
    /// The passphrase or key that was given opens no key slot.
    #[error("this passphrase or key does not open {}: no key slot fits it", path.display())]
    WrongKey {
        /// The folder.
        path: PathBuf,
    },
    /// A key was given for a repository that has none.
    #[error(
        "{} is not encrypted, but a passphrase or key was given: leave it out, or check that nobody has put another repository there",
        path.display()
    )]
    NotEncrypted {
        /// The folder.
        path: PathBuf,
    },
    /// No such key slot.
    #[error("there is no key slot {0}")]
    NoSuchKeySlot(String),
    /// There is a key slot of that name.
    #[error("there is a key slot {0} already: choose another name, or change that one")]
    KeySlotTaken(String),
    /// A passphrase takes memory to be tried.
    #[error(
        "there is not enough memory for the {kibibytes} KiB that a passphrase takes to be tried"
    )]
    NoMemoryForKey {
        /// How much that is.
        kibibytes: u32,
    },
    /// The system's random generator failed.
    #[error("the system gives no random bytes")]
    NoRandomness,
    /// It was made by a newer version.
    #[error("{what} has format version {found}, this program reads up to {known}: update holdfast")]
    TooNew {
        /// Which file.
        what: String,
        /// Its version.
        found: u32,
        /// The newest known version.
        known: u32,
    },
    /// Stored bytes are not what was stored.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// What is hurt, with its place.
        what: String,
        /// How that shows.
        detail: String,
    },
    /// No pack holds this chunk any more.
    #[error("chunk {id} is missing: no pack holds it")]
    ChunkMissing {
        /// The chunk.
        id: String,
    },
    /// No such workload.
    #[error("there is no workload {0}")]
    NoSuchWorkload(WorkloadName),
    /// No such restore point.
    #[error("there is no restore point {0}")]
    NoSuchPoint(PointName),
    /// The point has no such disk.
    #[error("restore point {point} has no disk {disk}: it has {count}, numbered from 0")]
    NoSuchDisk {
        /// The point.
        point: PointName,
        /// What was asked for.
        disk: usize,
        /// How many there are.
        count: usize,
    },
    /// The point has no such stream.
    #[error("restore point {point} has no stream {name}")]
    NoSuchStream {
        /// The point.
        point: PointName,
        /// What was asked for.
        name: String,
    },
    /// No such overlay.
    #[error("there is no overlay {0}")]
    NoSuchOverlay(Uuid),
    /// The overlay takes no more writes.
    #[error("overlay {0} takes no more writes: it is being sealed or was sealed")]
    OverlaySealed(Uuid),
    /// An earlier sync of the overlay failed, so what is on disk is not known.
    #[error(
        "overlay {0} takes no more writes since its storage failed; open it again once the storage is sound"
    )]
    OverlayPoisoned(Uuid),
    /// The point is the ground of a recovery session.
    #[error("restore point {point} is in use by overlay {overlay}: discard it first")]
    PointInUse {
        /// The point.
        point: PointName,
        /// Who uses it.
        overlay: Uuid,
    },
    /// The point is kept for ever.
    #[error("restore point {0} is starred: take the star off first, with `holdfast point unstar`")]
    Starred(PointName),
    /// The point may not be removed before its time.
    #[error("restore point {point} is locked until {until} ({})", mode.rule())]
    Locked {
        /// The point.
        point: PointName,
        /// Who may lift it.
        mode: LockMode,
        /// Until when.
        until: UnixNanoseconds,
    },
    /// A lock would change nothing, or less than nothing.
    #[error(
        "restore point {point} is locked until {until} already: a lock can be made longer, never shorter"
    )]
    LockNotLonger {
        /// The point.
        point: PointName,
        /// Until when.
        until: UnixNanoseconds,
    },
    /// A lock until a time that has passed.
    #[error("{until} has passed: by the repository's trusted time it is {now}")]
    LockInPast {
        /// Until when.
        until: UnixNanoseconds,
        /// The trusted time.
        now: UnixNanoseconds,
    },
    /// There is no lock that could be lifted.
    #[error("restore point {0} is not locked")]
    NotLocked(PointName),
    /// Every lock of the point is older than the authority.
    #[error(
        "the lock authority was made after restore point {0} was locked, so it cannot lift that lock: only one that was there before can"
    )]
    AuthorityTooYoung(PointName),
    /// Locked points might become unreadable to their owner.
    #[error(
        "restore points are locked, and whoever can read them now must be able to until the locks end: key slot {0} is removed or changed through the daemon and with a one-time code of the lock authority only (`--code`)"
    )]
    KeySlotHeld(String),
    /// The same, and the authority that confirmed it is too young.
    #[error(
        "restore points are locked by locks that are older than the lock authority, so it cannot confirm that key slot {0} is removed or changed"
    )]
    KeySlotHeldLonger(String),
    /// A mark of the point cannot be read, so it might be a lock.
    #[error(
        "restore point {point} counts as locked for ever, since a mark of it cannot be read ({detail}): put the file back from a copy, or remove it by hand if you are sure"
    )]
    MarkDamaged {
        /// The point.
        point: PointName,
        /// Which, and how that shows.
        detail: String,
    },
    /// The pack is needed by a locked point.
    #[error("pack {0} is held by a locked restore point")]
    PackHeld(u32),
    /// A name that is not allowed.
    #[error("{name:?} is no valid {what}: {rule}")]
    BadName {
        /// What was given.
        name: String,
        /// What it was meant to name.
        what: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
    /// A range outside of the disk, not in 512-byte units, or out of order.
    #[error(
        "range of {length} bytes at {offset} does not fit a disk of {size_bytes} bytes: {rule}"
    )]
    BadRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The disk's size.
        size_bytes: u64,
        /// What is allowed.
        rule: &'static str,
    },
    /// Something else about the request.
    #[error("{0}")]
    Refused(&'static str),
    /// An earlier sync failed, so what is on disk is not known.
    #[error(
        "the repository takes no more writes since an earlier sync failed; restart the daemon once the storage is sound"
    )]
    Poisoned,
    /// A write failed while the backup was under way, for lack of space or by the storage's fault.
    #[error(
        "a write to the repository failed while this backup was under way: see to its space and storage, then run the backup again"
    )]
    LostRecords,
    /// Someone else took the next number first.
    #[error("another backup of {0} was committed meanwhile: run this one again")]
    Overtaken(WorkloadName),
    /// The point's space was given back, or is about to be.
    #[error("restore point {0} cannot be brought back: its space is being given back")]
    GivenBack(PointName),
    /// A point is gone that was not expired.
    #[error(
        "the manifest of restore point {0} is gone and it was not expired: put it back, or expire the point; nothing is freed until then"
    )]
    Vanished(PointName),
    /// Manifests cannot be read, so nobody knows what they need.
    #[error("{count} manifests are damaged: nothing is freed before they are mended or removed")]
    DamagedManifests {
        /// How many.
        count: usize,
    },
    /// The account of space is not in step with what is stored.
    #[error("the account of space is wrong: {detail}")]
    Inexact {
        /// How that shows.
        detail: String,
    },
    /// A collection is under way already.
    #[error("a collection is under way already: wait for its end or stop it")]
    CollectionUnderWay,
    /// The account of space is in use for long.
    #[error("the account of space is being brought up to date: ask again in a while")]
    AccountBusy,
    /// The index failed.
    #[error("the index failed to {action}")]
    Index {
        /// What was attempted.
        action: &'static str,
        /// How it failed.
        #[source]
        source: rocksdb::Error,
    },
    /// The file being backed up, or written to, failed.
    #[error("cannot {action} at byte {offset} of the disk")]
    Transfer {
        /// What was attempted.
        action: &'static str,
        /// Where.
        offset: u64,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A worker thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A caller stopped a long call.
    #[error("stopped")]
    Stopped,
}

impl RepoError {
    /// Who must act.
    pub fn culprit(&self) -> Culprit {
        match self {
            Self::Disk(_) if self.is_full() => Culprit::Operator,
            Self::LostRecords | Self::NoRoom { .. } => Culprit::Operator,
            Self::Disk(_)
            | Self::Corrupt { .. }
            | Self::MarkDamaged { .. }
            | Self::ChunkMissing { .. }
            | Self::Inexact { .. }
            | Self::Vanished(_)
            | Self::DamagedManifests { .. }
            | Self::Poisoned
            | Self::OverlayPoisoned(_)
            | Self::Index { .. }
            | Self::Thread(_)
            | Self::Transfer { .. } => Culprit::Storage,
            Self::NotARepository { .. }
            | Self::AlreadyARepository { .. }
            | Self::NotEmpty { .. }
            | Self::InUse { .. }
            | Self::KeyNeeded { .. }
            | Self::WrongKey { .. }
            | Self::NotEncrypted { .. }
            | Self::NoRandomness
            | Self::NoMemoryForKey { .. }
            | Self::TooNew { .. } => Culprit::Operator,
            _ => Culprit::Caller,
        }
    }

    /// Whether the cause is lack of space.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_full(),
            Self::NoRoom { .. } => true,
            _ => false,
        }
    }

    /// Whether stored bytes are damaged or gone.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::ChunkMissing { .. })
    }
}
