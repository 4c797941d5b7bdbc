//! A tree of files in RAM.
