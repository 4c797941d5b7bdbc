//! One share.

use std::path::PathBuf;

use crate::{Network, ShareName, UserName};

/// A folder that one user may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its name.
    pub name: ShareName,
    /// The folder.
    pub path: PathBuf,
    /// What it is, for people. Letters that a line of configuration cannot hold are left out.
    pub comment: String,
    /// Who may use it.
    pub user: UserName,
    /// What that user may do.
    pub access: Access,
    /// The name of a folder in it whose folders, named `@GMT-YYYY.MM.DD-HH.MM.SS`, are earlier versions of it.
    pub earlier: Option<&'static str>,
    /// From where; nobody if it is empty.
    pub allow: Vec<Network>,
}

/// What may be done in a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read. Nothing in it ever changes, so clients may keep what they have read, and links in it are followed as far as
    /// they stay within.
    ReadOnly,
    /// Read and write, beside others who do: clients keep nothing, and follow no links.
    ReadWrite,
}
