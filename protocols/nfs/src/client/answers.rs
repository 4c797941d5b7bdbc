//! What the client's calls give back.

use export::{Attributes, FileId, Statistics, Timestamp};

use super::Found;

/// Attributes before and after a change, where the server sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// Time of the last change before this one.
    pub changed_before: Option<Timestamp>,
    /// Attributes after it.
    pub after: Option<Attributes>,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The bytes.
    pub data: Vec<u8>,
    /// Whether they reach the end of the file.
    pub end: bool,
    /// Attributes after the read.
    pub attributes: Option<Attributes>,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteAnswer {
    /// Bytes taken.
    pub count: u32,
    /// Whether they are on stable storage.
    pub stable: bool,
    /// Changes when the server restarts: what was not stable must be written again.
    pub verifier: [u8; 8],
    /// Attributes after the write.
    pub attributes: Option<Attributes>,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEntry {
    /// The object's number.
    pub file: FileId,
    /// Its name.
    pub name: Vec<u8>,
    /// Where to go on after it.
    pub cookie: u64,
    /// The object, from READDIRPLUS.
    pub found: Option<Found>,
}

/// The answer to FSSTAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesystemSpace {
    /// Space and counts.
    pub statistics: Statistics,
}

/// The answer to FSINFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesystemInfo {
    /// Largest read.
    pub read_max: u32,
    /// Read that costs least.
    pub read_preferred: u32,
    /// Largest write.
    pub write_max: u32,
    /// Write that costs least.
    pub write_preferred: u32,
    /// Largest file.
    pub size_max: u64,
    /// `FSF3` bits.
    pub properties: u32,
}

/// The answer to PATHCONF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathLimits {
    /// Names of one object.
    pub links_max: u32,
    /// Bytes of one name.
    pub name_max: u32,
}
