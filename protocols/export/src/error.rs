//! Why an export refused or failed, sorted by who must act.

use std::sync::Arc;

/// The reason an export gives for not doing what a peer asked.
///
/// Each protocol maps these to its own codes in one `status()`; texts are for the log, never for the peer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The range lies outside the disk, or is not a multiple of the block size. The peer's fault.
    #[error("range of {length} bytes at {offset} is outside the disk or not aligned to its blocks")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// The export does not take writes.
    #[error("the export is read-only")]
    ReadOnly,
    /// No such file, folder or handle.
    #[error("no such file or folder")]
    NotFound,
    /// The handle names something that existed and is gone for good.
    #[error("the file behind this handle is gone")]
    Stale,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A folder was needed.
    #[error("not a folder")]
    NotDirectory,
    /// Something other than a folder was needed.
    #[error("is a folder")]
    IsDirectory,
    /// The folder still has entries.
    #[error("the folder is not empty")]
    NotEmpty,
    /// The name is too long, empty, or holds a byte that no name may hold.
    #[error("the name is not allowed")]
    BadName,
    /// A name of more bytes than the tree takes.
    #[error("the name is too long")]
    NameTooLong,
    /// The caller may not do this.
    #[error("not permitted")]
    NotPermitted,
    /// The content was encrypted by whoever made it, and the key is not here.
    #[error("encrypted by a key that is not here")]
    Encrypted,
    /// The argument makes no sense for this object.
    #[error("invalid argument")]
    Invalid,
    /// The export has no such function.
    #[error("not supported by this export")]
    NotSupported,
    /// The file would grow past the largest size.
    #[error("the file would be too large")]
    TooLarge,
    /// There is no room left for what was asked. The operator must free some.
    #[error("no space left: {detail}")]
    NoSpace {
        /// Where room is lacking.
        detail: Arc<str>,
    },
    /// Stored bytes are damaged. What is hurt is named; nothing else is affected.
    #[error("damaged: {detail}")]
    Corrupt {
        /// What is hurt and where.
        detail: Arc<str>,
    },
    /// The storage below failed.
    #[error("storage failed: {detail}")]
    Storage {
        /// What was attempted and how it failed.
        detail: Arc<str>,
    },
    /// The export is going away; the peer may come back later.
    #[error("the export is shutting down")]
    ShuttingDown,
}
