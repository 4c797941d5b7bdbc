//! Tables of partitions: GPT and MBR.

mod gpt;
mod mbr;

pub(crate) use gpt::find as find_gpt;
pub(crate) use mbr::{claims_gpt, is_blank, read as read_mbr};

/// What a table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its lines.
    pub entries: Vec<Entry>,
    /// Where its own structures lie, as bytes of the disk.
    pub own: Vec<u64>,
    /// Whether all of it could be read.
    pub is_whole: bool,
}

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number, as Linux counts.
    pub number: u32,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    /// What the table says that it is for.
    pub kind: String,
    pub label: Option<String>,
}

/// Units in which tables count.
pub(crate) const SECTOR_SIZES: [u64; 2] = [512, 4096];
