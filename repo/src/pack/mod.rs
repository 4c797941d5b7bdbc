//! Packs: append-only files of many chunks, and the only place where chunks are.
//!
//! `docs/formats/pack.md` specifies the bytes. [`PackSet`] knows all packs of a repository, [`PackWriter`] appends to
//! one, [`scan`] reads one without its table.

mod adopt;
mod condemned;
mod files;
mod format;
mod parity;
mod reader;
mod record;
mod scan;
mod set;
mod table;
mod window;
mod writer;

pub(crate) use files::{PackFile, PackOwner, owner_of_pack, packs_on, table_or_scan};
pub(crate) use format::{Place, RecordKind};
pub use parity::ParityShare;
pub(crate) use parity::{
    BadPages, Covered, NoParity, PackView, ParityFile, ParityOwner, Rebuild, make_parity,
};
pub(crate) use reader::PackReader;
pub(crate) use record::{Record, RecordDecoder, RecordEncoder};
pub(crate) use scan::{PackFault, scan_pack};
pub(crate) use set::{Origin, PackClass, PackSet, Sealed};
pub(crate) use table::{PackTable, pack_table};
pub(crate) use window::Fetch;
pub(crate) use writer::{PackWriter, Telling};

#[doc(hidden)]
pub use parity::fuzz_parity;
#[doc(hidden)]
pub use scan::fuzz_pack;
