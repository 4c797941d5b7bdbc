//! A disk in RAM.
