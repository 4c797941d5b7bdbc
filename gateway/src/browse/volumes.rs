//! The volumes of a disk, opened, or why not.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use export::{BlockExport, ExportError, FileExport};
use guestfs::Volume;

use super::disk_tree::VOLUMES_MAX;
use crate::exports::chain;

/// What the folder of a disk shows, by name.
pub(super) struct Volumes {
    all: Vec<(String, Found)>,
    may_change: bool,
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
        let mut found = Self {
            all: Vec::new(),
            may_change: false,
        };
        match guestfs::open(Arc::clone(disk)) {
            Err(error) => found.add_reason("disk", &error),
            Ok(volumes) => {
                let most = usize::try_from(VOLUMES_MAX).unwrap_or(usize::MAX);
                volumes
                    .iter()
                    .take(most)
                    .for_each(|volume| found.add(volume));
            }
        }
        found
    }

    /// Whether the disk could not be reached, which may be otherwise another time.
    pub(super) fn may_change(&self) -> bool {
        self.may_change
    }

    fn add(&mut self, volume: &Volume) {
        let tree = match volume.files() {
            Ok(tree) => tree,
            Err(error) => return self.add_reason(&volume.name, &error),
        };
        match tree.attributes(tree.root()) {
            Ok(_) => self.all.push((volume.name.clone(), Found::Tree(tree))),
            Err(error) => self.add_reason(&volume.name, &error),
        }
    }

    fn add_reason(&mut self, name: &str, error: &(dyn Error + 'static)) {
        let text = format!(
            "The files of {name} are not shown: {}.\nIts bytes are in the files of the whole disk beside this folder.\n",
            chain(error)
        );
        self.all
            .push((format!("{name}.txt"), Found::Reason(text.into())));
        self.may_change |= is_of_the_way(error);
    }

    pub(super) fn all(&self) -> &[(String, Found)] {
        &self.all
    }

    pub(super) fn get(&self, number: usize) -> Option<&(String, Found)> {
        self.all.get(number)
    }
}

/// Whether the way to the disk failed, and not what lies on it.
fn is_of_the_way(error: &(dyn Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(one) = error {
        if let Some(ExportError::Storage { .. } | ExportError::ShuttingDown) = one.downcast_ref() {
            return true;
        }
        error = one.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use export::{BlockProperties, Durability, Extent, MemoryDisk, Segments, ZeroMode};

    use super::*;

    /// A disk that cannot be reached.
    struct Away;

    fn away<T>() -> Result<T, ExportError> {
        Err(ExportError::Storage {
            detail: "nobody answers".into(),
        })
    }

    impl BlockExport for Away {
        fn properties(&self) -> BlockProperties {
            MemoryDisk::new(1 << 20).properties()
        }

        fn read(&self, _: u64, _: u32) -> Result<Segments, ExportError> {
            away()
        }

        fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
            away()
        }

        fn write_zeroes(
            &self,
            _: u64,
            _: u64,
            _: ZeroMode,
            _: Durability,
        ) -> Result<(), ExportError> {
            away()
        }

        fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
            away()
        }

        fn flush(&self) -> Result<(), ExportError> {
            away()
        }

        fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, ExportError> {
            away()
        }
    }

    #[test]
    fn only_a_disk_that_cannot_be_reached_is_looked_at_again() {
        let blank: Arc<dyn BlockExport> = Arc::new(MemoryDisk::new(1 << 20));
        let found = Volumes::find(&blank);
        assert_eq!(found.all()[0].0, "disk.txt");
        assert!(!found.may_change(), "what lies on it stays unknown");
        let away: Arc<dyn BlockExport> = Arc::new(Away);
        let found = Volumes::find(&away);
        assert_eq!(found.all()[0].0, "disk.txt");
        assert!(found.may_change());
    }
}
