//! The volumes of a disk, opened, or why not.

use std::sync::Arc;

use bytes::Bytes;
use export::FileExport;
use guestworker::{GuestVolume, Refusal};

use super::disk_tree::VOLUMES_MAX;

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
    /// Opens those of `volumes` that lie on the disk at `place`. Whatever cannot be shown is told, and does not keep the
    /// rest from being shown.
    pub(super) fn open(volumes: &Result<Vec<Box<dyn GuestVolume>>, Refusal>, place: usize) -> Self {
        let mut found = Self {
            all: Vec::new(),
            may_change: false,
        };
        match volumes {
            Err(refusal) => found.add_reason("disk", refusal),
            Ok(volumes) => {
                let most = usize::try_from(VOLUMES_MAX).unwrap_or(usize::MAX);
                let here = |volume: &&dyn GuestVolume| {
                    usize::try_from(volume.description().disk) == Ok(place)
                };
                volumes
                    .iter()
                    .map(|volume| &**volume)
                    .filter(here)
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

    fn add(&mut self, volume: &dyn GuestVolume) {
        let name = &volume.description().name;
        let open = || {
            let tree = volume.files()?;
            tree.attributes(tree.root())?;
            Ok(tree)
        };
        match open() {
            Ok(tree) => self.all.push((name.clone(), Found::Tree(tree))),
            Err(refusal) => self.add_reason(name, &refusal),
        }
    }

    fn add_reason(&mut self, name: &str, refusal: &Refusal) {
        let text = format!(
            "The files of {name} are not shown: {refusal}.\nIts bytes are in the files of the whole disk beside this folder.\n"
        );
        self.all
            .push((format!("{name}.txt"), Found::Reason(text.into())));
        self.may_change |= refusal.is_of_the_way();
    }

    pub(super) fn all(&self) -> &[(String, Found)] {
        &self.all
    }

    pub(super) fn get(&self, number: usize) -> Option<&(String, Found)> {
        self.all.get(number)
    }
}

#[cfg(test)]
mod tests {
    use export::{
        BlockExport, BlockProperties, Durability, ExportError, Extent, MemoryDisk, Segments,
        ZeroMode,
    };
    use guestworker::{GuestReader, Reader as _};

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
        let found = Volumes::open(&GuestReader.open(&[blank]), 0);
        assert_eq!(found.all()[0].0, "disk.txt");
        assert!(!found.may_change(), "what lies on it stays unknown");
        let away: Arc<dyn BlockExport> = Arc::new(Away);
        let found = Volumes::open(&GuestReader.open(&[away]), 0);
        assert_eq!(found.all()[0].0, "disk.txt");
        assert!(found.may_change());
    }
}
