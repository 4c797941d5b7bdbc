//! Disk-image formats as faces: a disk shown as the file that a hypervisor wants, with nothing copied.
//!
//! Headers, tables and footers are computed when they are read; every byte of the disk is read and written where it is.
//! Each format is laid out so that all blocks of the disk are allocated, in order: block `n` of the disk is always at the
//! same place of the file, whoever writes to it. So a face opens in constant time, needs no memory of its own, and
//! several faces of one disk may be used one after the other.
//!
//! `docs/formats/faces.md` gives the layouts and what each format's programs may and may not do with a face.

#![forbid(unsafe_code)]

mod codec;
mod face;
mod format;
mod layout;
mod qcow2;
mod vhd;
mod vhdx;
mod vmdk;

pub use face::Face;
pub use format::{FaceError, Format};
pub use vmdk::flat_descriptor;
