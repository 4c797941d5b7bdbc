//! XFS.

mod content;
mod damage;
mod load;
mod programs;
mod version_4;
