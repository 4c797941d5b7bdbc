//! What a protocol server may ask of the thing that it serves.
//!
//! Two small traits, [`BlockExport`] (a disk) and [`FileExport`] (a tree of files), stand between every protocol and
//! everything that is stored. Protocols see nothing else; what is stored knows no protocol. Calls are synchronous: a
//! server asks first whether memory can answer (`*_cached`, `try_*`) and hands the rest to the one [`BlockingPool`].
//!
//! [`MemoryDisk`] and [`MemoryTree`] implement the traits in RAM; the module `contract` holds the tests that every
//! implementation must pass.

#![forbid(unsafe_code)]

mod block;
mod blocking;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod file;
mod memory_disk;
mod memory_tree;
mod output;
mod payload;
mod segments;
mod slots;

pub use block::{BlockExport, BlockProperties, BlockState, Durability, Extent, ZeroMode};
pub use blocking::{BlockingPool, PoolFull};
pub use error::ExportError;
pub use file::{
    Attributes, Caller, CreateMode, Created, DirectoryEntry, ExtendedAttribute, FileExport, FileId,
    FileKind, FileRead, Particulars, SetAttributes, SpecialFile, Statistics, TimeChange, Timestamp,
    Written,
};
pub use memory_disk::MemoryDisk;
pub use memory_tree::MemoryTree;
pub use output::Output;
pub use payload::{PayloadBuffer, PayloadBuffers};
pub use segments::Segments;
pub use slots::{Slot, Slots};
