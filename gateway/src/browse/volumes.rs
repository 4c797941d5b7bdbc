//! The volumes of a disk, opened, or why not.

use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport, FileExport};
use guestfs::Volume;

use super::disk_tree::VOLUMES_MAX;
use crate::exports::chain;

/// What the folder of a disk shows, by name.
pub(super) struct Volumes {
    all: Vec<(String, Found)>,
}

/// A volume that was looked into.
pub(super) enum Found {
    /// Its files.
    Tree(Arc<dyn FileExport>),
    /// Why they are not shown: a small text that is shown instead.
    Reason(Bytes),
}

impl Volumes {
    /// Looks at everything on a disk. Whatever cannot be shown is told, and does not keep the rest from being shown.
    pub(super) fn find(disk: &Arc<dyn BlockExport>) -> Self {
        let all = match guestfs::open(Arc::clone(disk)) {
            Err(error) => vec![reason("disk", &error)],
            Ok(volumes) => {
                let most = usize::try_from(VOLUMES_MAX).unwrap_or(usize::MAX);
                volumes.iter().take(most).map(show).collect()
            }
        };
        Self { all }
    }

    /// Whether something could not be looked into, which may be another time.
    pub(super) fn is_partial(&self) -> bool {
        self.all
            .iter()
            .any(|(_, found)| matches!(found, Found::Reason(_)))
    }

    pub(super) fn all(&self) -> &[(String, Found)] {
        &self.all
    }

    pub(super) fn get(&self, number: usize) -> Option<&(String, Found)> {
        self.all.get(number)
    }
}

fn show(volume: &Volume) -> (String, Found) {
    let tree = match volume.files() {
        Ok(tree) => tree,
        Err(error) => return reason(&volume.name, &error),
    };
    match tree.attributes(tree.root()) {
        Ok(_) => (volume.name.clone(), Found::Tree(tree)),
        Err(error) => reason(&volume.name, &error),
    }
}

fn reason(name: &str, error: &dyn std::error::Error) -> (String, Found) {
    let text = format!(
        "The files of {name} are not shown: {}.\nIts bytes are in the files of the whole disk beside this folder.\n",
        chain(error)
    );
    (format!("{name}.txt"), Found::Reason(text.into()))
}
