//! ISO 9660.

mod content;
mod damage;
mod raw;
