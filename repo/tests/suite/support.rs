//! What the tests share.

use std::path::Path;

use bytes::Bytes;
use repo::{
    CreateOptions, Image, ImageBase, ImageSpec, KdfSettings, NewKeySlot, OpenOptions, Point,
    PointKind, Repository, Secret, WorkloadName,
};
use std::sync::Arc;

/// How a repository is kept; tests run in both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    Encrypted,
}

impl Mode {
    pub(crate) const BOTH: [Self; 2] = [Self::Plain, Self::Encrypted];

    /// Runs a test in both.
    pub(crate) fn each(test: impl Fn(Self)) {
        Self::BOTH.into_iter().for_each(test);
    }

    pub(crate) fn create_options(self) -> CreateOptions {
        let slot = new_slot("first", secret());
        CreateOptions {
            key_slots: match self {
                Self::Plain => Vec::new(),
                Self::Encrypted => vec![slot],
            },
        }
    }

    /// Opens what [`create_options`](Self::create_options) made.
    pub(crate) fn options(self) -> OpenOptions {
        OpenOptions {
            secret: match self {
                Self::Plain => None,
                Self::Encrypted => Some(secret()),
            },
            ..options()
        }
    }
}

/// What opens the encrypted repositories of tests.
pub(crate) fn secret() -> Secret {
    Secret::passphrase("correct horse battery staple").unwrap()
}

/// A slot that costs little to open.
pub(crate) fn new_slot(name: &str, secret: Secret) -> NewKeySlot {
    NewKeySlot {
        name: name.to_owned(),
        secret,
        kdf: KdfSettings {
            memory_kibibytes: 8,
            passes: 1,
            lanes: 1,
        },
    }
}

pub(crate) fn workload() -> WorkloadName {
    WorkloadName::parse("web").unwrap()
}

/// Small caches, so that tests reach what lies behind them.
pub(crate) fn options() -> OpenOptions {
    OpenOptions {
        chunk_cache_bytes: 4 << 20,
        node_cache_bytes: 1 << 20,
        index_cache_bytes: 1 << 20,
        workers: 2,
        protect_files: false,
        // Tests of damage want to see it; those of parity turn it on.
        parity_share: repo::ParityShare::NONE,
        ..OpenOptions::default()
    }
}

pub(crate) fn fresh(folder: &Path) -> Repository {
    fresh_in(Mode::Plain, folder)
}

pub(crate) fn fresh_in(mode: Mode, folder: &Path) -> Repository {
    Repository::create(folder, &mode.create_options()).unwrap();
    Repository::open(folder, &mode.options()).unwrap()
}

/// Bytes that do not compress and differ by seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3_fill(seed, &mut bytes);
    bytes
}

fn blake3_fill(seed: u64, bytes: &mut [u8]) {
    // A small generator (splitmix64): quick, and the same everywhere.
    let mut state = seed;
    for word in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (mixed ^ (mixed >> 31)).to_le_bytes();
        word.copy_from_slice(&mixed[..word.len()]);
    }
}

/// Backs up a disk that has `writes` over `base`.
pub(crate) fn back_up(
    repository: &Repository,
    size: u64,
    base: ImageBase,
    writes: &[(u64, Vec<u8>)],
) -> Arc<Point> {
    let mut backup = repository.begin(&workload(), PointKind::Full).unwrap();
    let spec = ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: size,
        base,
    };
    let mut writer = backup.image(&spec).unwrap();
    for (offset, bytes) in writes {
        writer
            .write(*offset, Bytes::copy_from_slice(bytes))
            .unwrap();
    }
    backup.finish_image(writer).unwrap();
    backup.commit().unwrap()
}

pub(crate) fn read(image: &Image, offset: u64, length: usize) -> Vec<u8> {
    let mut pieces = Vec::new();
    image
        .read(offset, u32::try_from(length).unwrap(), &mut pieces)
        .unwrap();
    pieces.concat()
}

pub(crate) fn read_all(image: &Image) -> Vec<u8> {
    read(image, 0, usize::try_from(image.size_bytes()).unwrap())
}
