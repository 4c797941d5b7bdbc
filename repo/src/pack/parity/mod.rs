//! Parity: a file beside each pack from which damaged pages of the pack are made again.
//!
//! `docs/formats/parity.md` specifies the bytes. Parity is made over a pack as it is stored ([`make_parity`]), so it
//! needs no key, and it is never needed to read a sound pack. A [`PackView`] shows a pack with its bad pages found,
//! and rebuilt if that is wanted; [`mend_pages`] puts rebuilt pages back.

mod file;
mod format;
mod make;
mod mend;
mod view;

pub(crate) use file::{NoParity, ParityFile};
pub use format::ParityShare;
pub(crate) use format::{Covered, ParityOwner, pack_files, parity_path, parse_parity_name};
pub(crate) use make::make_parity;
pub(crate) use mend::mend_pages;
pub(crate) use view::{BadPages, PackView, Rebuild};

#[doc(hidden)]
pub use file::fuzz_parity;
