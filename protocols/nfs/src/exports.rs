//! What is served, to whom, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use export::FileExport;
use parking_lot::RwLock;

use crate::AddressList;

/// Finds exports for the server. Asked on every request, so that a change takes effect at once: keep it fast.
pub trait ExportDirectory: Send + Sync + 'static {
    /// The exports that `peer` may see, for `showmount -e`.
    fn list(&self, peer: IpAddr) -> Vec<Arc<Export>>;

    /// The export whose path is `path` or the nearest folder above it. The server looks up the rest of the path, and
    /// checks the export's address list itself.
    ///
    /// # Errors
    /// [`Refusal`] if there is none, or `peer` may not use it.
    fn resolve(&self, path: &str, peer: IpAddr) -> Result<Arc<Export>, Refusal>;

    /// The export that a file handle names.
    ///
    /// # Errors
    /// [`Refusal`] if there is none any more, or `peer` may not use it.
    fn by_id(&self, id: u64, peer: IpAddr) -> Result<Arc<Export>, Refusal>;
}

/// Why a peer does not get an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such export.
    #[error("no such export")]
    Unknown,
    /// There is, but not for this peer.
    #[error("the peer may not use this export")]
    Denied,
}

/// A tree and the rules under which it is served.
pub struct Export {
    /// Number in file handles and the file system id that clients see: unique, and the same after a restart.
    pub id: u64,
    /// Where clients find it: `/` or `/name`, without a slash at the end.
    pub path: String,
    /// What is served.
    pub tree: Arc<dyn FileExport>,
    /// How.
    pub options: ExportOptions,
}

/// The rules of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// Whether changes are refused.
    pub read_only: bool,
    /// Whose user numbers are believed.
    pub squash: Squash,
    /// User number of those who are not believed.
    pub anonymous_uid: u32,
    /// Group number of those who are not believed.
    pub anonymous_gid: u32,
    /// Who may come.
    pub addresses: AddressList,
}

/// Which user numbers become the anonymous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Squash {
    /// None: root is root. ESXi needs this.
    None,
    /// User and group 0.
    Root,
    /// All.
    All,
}

impl Export {
    /// Whether `peer` is on the export's address list.
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.options.addresses.admits(peer)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Export")
            .field("id", &self.id)
            .field("path", &self.path)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Default for ExportOptions {
    /// Writable, root squashed to 65534, this machine only.
    fn default() -> Self {
        Self {
            read_only: false,
            squash: Squash::Root,
            anonymous_uid: NOBODY,
            anonymous_gid: NOBODY,
            addresses: AddressList::loopback(),
        }
    }
}

/// A list of exports that its owner fills and empties.
#[derive(Debug, Default)]
pub struct StaticDirectory {
    exports: RwLock<BTreeMap<u64, Arc<Export>>>,
}

impl StaticDirectory {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an export, in place of one with the same id.
    pub fn insert(&self, export: Export) {
        self.exports.write().insert(export.id, Arc::new(export));
    }

    /// Takes an export away; its handles are stale from now on.
    pub fn remove(&self, id: u64) -> Option<Arc<Export>> {
        self.exports.write().remove(&id)
    }
}

impl ExportDirectory for StaticDirectory {
    fn list(&self, peer: IpAddr) -> Vec<Arc<Export>> {
        self.exports
            .read()
            .values()
            .filter(|export| export.admits(peer))
            .cloned()
            .collect()
    }

    fn resolve(&self, path: &str, _peer: IpAddr) -> Result<Arc<Export>, Refusal> {
        let exports = self.exports.read();
        let above = exports
            .values()
            .filter(|export| path_below(path, &export.path).is_some());
        above
            .max_by_key(|export| export.path.len())
            .cloned()
            .ok_or(Refusal::Unknown)
    }

    fn by_id(&self, id: u64, _peer: IpAddr) -> Result<Arc<Export>, Refusal> {
        self.exports
            .read()
            .get(&id)
            .cloned()
            .ok_or(Refusal::Unknown)
    }
}

/// What of `path` lies below `above`, or `None` if it is elsewhere.
pub(crate) fn path_below<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(above.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

const NOBODY: u32 = 65534;

#[cfg(test)]
mod tests {
    use export::MemoryTree;

    use super::*;

    #[test]
    fn the_nearest_export_above_a_path_is_found() {
        let directory = StaticDirectory::new();
        for (id, path) in [(1, "/"), (2, "/vm"), (3, "/vm/deep")] {
            let tree = Arc::new(MemoryTree::new());
            let options = ExportOptions::default();
            directory.insert(Export {
                id,
                path: path.to_owned(),
                tree,
                options,
            });
        }
        let peer = IpAddr::from([127, 0, 0, 1]);
        let find = |path: &str| directory.resolve(path, peer).map(|export| export.id);
        assert_eq!(find("/"), Ok(1));
        assert_eq!(find("/vm"), Ok(2));
        assert_eq!(find("/vmx"), Ok(1));
        assert_eq!(find("/vm/deep/er"), Ok(3));
        directory.remove(1);
        assert_eq!(find("/vmx"), Err(Refusal::Unknown));
    }
}
