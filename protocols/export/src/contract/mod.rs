//! The tests that every export must pass, to be called from the tests of the crate that implements one.
//!
//! They panic with a sentence that names what does not hold and, where numbers were drawn, the seed.

pub mod block;
pub mod file;
