//! The disks of machines that were made by a Linux kernel.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use export::Segments;
use guestfs::{Assembled, DiskSet, GuestError, Source, open_sources};
use sha2::{Digest as _, Sha256};

/// The disks of a case, and what the kernel has read of the volumes on them.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) disks: Vec<Vec<u8>>,
    pub(super) volumes: Vec<Expected>,
}

#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) name: String,
    pub(super) length_bytes: u64,
    pub(super) sha256: String,
}

impl Case {
    pub(super) fn read(name: &str) -> Self {
        let folder = folder();
        let packed = fs::read(folder.join(format!("{name}.zst"))).unwrap();
        let mut bytes = zstd::decode_all(&*packed).unwrap();
        let mut case = Self {
            name: name.to_owned(),
            disks: Vec::new(),
            volumes: Vec::new(),
        };
        let text = fs::read_to_string(folder.join(format!("{name}.expected"))).unwrap();
        for line in text.lines() {
            match *line.split(' ').collect::<Vec<_>>() {
                ["disk", length] => {
                    let rest = bytes.split_off(length.parse().unwrap());
                    case.disks.push(std::mem::replace(&mut bytes, rest));
                }
                ["volume", name, length, sha256] => case.volumes.push(Expected {
                    name: name.to_owned(),
                    length_bytes: length.parse().unwrap(),
                    sha256: sha256.to_owned(),
                }),
                _ => panic!("{line}"),
            }
        }
        assert!(bytes.is_empty() && !case.disks.is_empty());
        case
    }

    /// All that there are, by name.
    pub(super) fn all() -> Vec<Self> {
        let files = fs::read_dir(folder()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter_map(|name| Some(name.strip_suffix(".expected")?.to_owned()))
            .collect();
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    pub(super) fn open(&self) -> DiskSet {
        self.open_without(&[])
    }

    /// Without the disks of these numbers.
    pub(super) fn open_without(&self, absent: &[usize]) -> DiskSet {
        let disks = (0..).zip(&self.disks);
        let disks = disks.filter(|(number, _)| !absent.contains(number));
        let disks = disks.map(|(_, disk)| Buffer::of(disk.clone()));
        open_sources(&disks.collect::<Vec<_>>())
    }

    /// Compares all volumes of a set with what the kernel has read.
    pub(super) fn check(&self, set: &DiskSet) {
        for expected in &self.volumes {
            let found = find(set, &expected.name);
            let volume = found.volume.as_ref();
            let volume = volume.unwrap_or_else(|error| panic!("{}: {found:?}: {error}", self.name));
            let what = format!("{} of {}: {}", expected.name, self.name, found.description);
            assert_eq!(volume.length_bytes, expected.length_bytes, "{what}");
            assert_eq!(hash_of(&*volume.source()), expected.sha256, "{what}");
        }
    }
}

/// A volume of a set by its name.
pub(super) fn find<'a>(set: &'a DiskSet, name: &str) -> &'a Assembled {
    let found = set.assembled.iter().find(|found| found.name == name);
    found.unwrap_or_else(|| panic!("there is no {name}: {set:?}"))
}

/// The error that a volume gives.
pub(super) fn error_of(set: &DiskSet, name: &str) -> String {
    find(set, name).volume.as_ref().unwrap_err().to_string()
}

/// The hash of a source that is read in steps that fit nothing.
pub(super) fn hash_of(source: &dyn Source) -> String {
    let hash = Sha256::digest(content_of(source));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn content_of(source: &dyn Source) -> Vec<u8> {
    let mut content = Vec::new();
    let mut step = 1;
    while (content.len() as u64) < source.length_bytes() {
        let left = usize::try_from(source.length_bytes()).unwrap() - content.len();
        let read = source.read(content.len() as u64, step.min(left)).unwrap();
        content.extend(read.to_vec());
        step = (step * 3 + 511) % 300_007 + 1;
    }
    content
}

pub(super) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/volumes")
}

/// Bytes as a disk.
pub(super) struct Buffer(bytes::Bytes);

impl Buffer {
    pub(super) fn of(bytes: Vec<u8>) -> Arc<dyn Source> {
        Arc::new(Self(bytes.into()))
    }
}

impl Source for Buffer {
    fn length_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let start = usize::try_from(offset).unwrap();
        Ok(self.0.slice(start..start + length).into())
    }
}
