//! A file, as it is listed.

use export::{Attributes, FileExport as _, FileKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DiskTree;

/// An object, as it is listed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct FileView {
    /// From the top, such as `disk-0/p1/etc/hosts`. Bytes that are no text are replaced.
    pub(crate) path: String,
    /// `file`, `folder` or `link`.
    pub(crate) kind: String,
    /// Permissions, octal.
    pub(crate) mode: String,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Length.
    pub(crate) size_bytes: u64,
    /// Last change of the content, RFC 3339.
    pub(crate) modified: String,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    /// Of a volume: what it is made of, what is missing of it, why it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl FileView {
    pub(crate) fn new(tree: &DiskTree, path: &str, attributes: &Attributes) -> Self {
        let target = (attributes.kind == FileKind::Symlink)
            .then(|| tree.read_symlink(attributes.file).ok())
            .flatten();
        let modified = u64::from(attributes.modified.nanoseconds)
            .saturating_add(attributes.modified.seconds.saturating_mul(1_000_000_000));
        Self {
            path: path.to_owned(),
            kind: match attributes.kind {
                FileKind::File => "file",
                FileKind::Directory => "folder",
                FileKind::Symlink => "link",
            }
            .to_owned(),
            mode: format!("{:04o}", attributes.mode & 0o7777),
            uid: attributes.uid,
            gid: attributes.gid,
            size_bytes: attributes.size_bytes,
            modified: repo::clock::UnixNanoseconds(modified).to_string(),
            target: target.map(|target| String::from_utf8_lossy(&target).into_owned()),
            note: tree.note(attributes.file),
        }
    }
}
