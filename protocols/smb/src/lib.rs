//! Folders of this machine as SMB shares, by Samba's `smbd`, which this crate configures and watches over.
//!
//! [`Server`] runs one `smbd` with a configuration, users and state of its own in a folder of its own; the machine's
//! Samba, if there is one, is not touched and not read. What clients may expect of the shares stands in
//! `docs/protocols/smb.md`, why users are made as they are in `docs/design/0015-smb-users.md`.

#![forbid(unsafe_code)]

mod accounts;
mod configuration;
mod error;
mod folder;
mod health;
mod leftovers;
mod metrics;
mod mount_points;
mod names;
mod namespace;
mod network;
mod password;
mod programs;
mod sambacc;
mod server;
mod settings;
mod share;
mod status;
mod supervisor;

pub use error::SmbError;
pub use health::{Health, Phase};
pub use metrics::Metrics;
pub use mount_points::MountPoints;
pub use names::{ShareName, UserName};
pub use network::Network;
pub use password::Password;
pub use programs::{Installed, Programs};
pub use sambacc::description;
pub use server::{Fate, Login, Server};
pub use settings::{Encryption, Settings};
pub use share::{Access, Share};
pub use status::Connection;
