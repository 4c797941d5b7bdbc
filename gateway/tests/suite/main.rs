//! The daemon in this process, driven as clients drive it.

mod access;
mod backups;
mod cli;
mod hostile;
mod recovery;
mod startup;
mod support;
