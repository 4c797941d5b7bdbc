//! Where backups come from: disk images for now.

pub mod image;
pub mod left_out;
pub mod ranges;
