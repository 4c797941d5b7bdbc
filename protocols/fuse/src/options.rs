//! How a tree is mounted.

use std::time::Duration;

/// Choices for one mount. The default is a read-only mount of data that never changes, for its owner alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Refuse every change, in the kernel and here.
    pub read_only: bool,
    /// Let users other than the one who mounts see it. Whoever is not root needs `user_allow_other` in
    /// `/etc/fuse.conf` for that.
    pub allow_other: bool,
    /// Let the kernel compare owners and modes with who asks. Without it everybody who sees the mount may do all that
    /// the tree allows.
    pub default_permissions: bool,
    /// How long the kernel may believe what it was told.
    pub caching: Caching,
    /// What `/proc/mounts` and `df` show as the device.
    pub name: String,
    /// Threads for calls that may wait for a disk.
    pub threads: usize,
    /// How far the kernel reads ahead of a reader who goes forwards. More than the kernel's own default of 128 KiB
    /// takes root.
    pub read_ahead_bytes: u32,
}

/// Who else may change what the tree shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Nobody: the kernel keeps names, attributes and content for as long as it has memory, across opens.
    Immutable,
    /// Others may, beside this mount: names and attributes are asked for again after a second, and content when a file
    /// is opened or its time of change moved.
    Shared,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: true,
            allow_other: false,
            default_permissions: true,
            caching: Caching::Immutable,
            name: "holdfast".to_owned(),
            threads: 8,
            read_ahead_bytes: 4 << 20,
        }
    }
}

impl Caching {
    /// For how long the kernel may believe a name or attributes.
    pub(crate) fn lifetime(self) -> Duration {
        match self {
            Self::Immutable => Duration::from_secs(365 * 24 * 3600),
            Self::Shared => Duration::from_secs(1),
        }
    }
}
