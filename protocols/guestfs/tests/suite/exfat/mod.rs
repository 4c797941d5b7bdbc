//! exFAT.

mod allocation;
mod content;
mod damage;
mod raw;
