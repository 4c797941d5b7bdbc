//! The exports in RAM keep the contract.
#![cfg(feature = "contract")]

mod memory_disk;
mod memory_tree;
