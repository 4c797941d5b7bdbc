//! What goes wrong, and how the repository is set up to meet it soon.

use std::sync::Arc;

use repo::disk::{Effect, Fault, Operation};
use repo::overlay::{BlockCache, OverlaySettings};
use repo::{KdfSettings, NewKeySlot, OpenOptions, ParityShare, Secret};

use crate::chance::Chance;

/// A slot that costs little to open.
pub(crate) fn key_slot(secret: Secret) -> NewKeySlot {
    NewKeySlot {
        name: "laboratory".to_owned(),
        secret,
        kdf: KdfSettings {
            memory_kibibytes: 8,
            passes: 1,
            lanes: 1,
        },
    }
}

/// Small caches, segments and limits, so that everything happens early.
pub(crate) fn options(chance: &mut Chance) -> OpenOptions {
    OpenOptions {
        chunk_cache_bytes: chance.of(&[0, 200_000, 2_000_000]),
        node_cache_bytes: 100_000,
        index_cache_bytes: 1 << 20,
        // Without threads a story goes the same way each time; some have them all the same.
        workers: usize::from(chance.one_in(16)),
        overlay: OverlaySettings {
            segment_bytes: chance.of(&[8_000, 60_000, 1 << 20]),
            unsynced_bytes_max: chance.of(&[20_000, 1 << 20]),
            map_cache_bytes: chance.of(&[2_000, 1 << 20]),
            checkpoint_bytes: chance.of(&[10_000, 100_000]),
            blocks: Arc::new(BlockCache::new(chance.of(&[0, 50_000]))),
            direct_bytes_min: chance.of(&[4_096, 100_000]),
        },
        secret: chance
            .one_in(4)
            .then(|| Secret::passphrase("correct horse battery staple").unwrap()),
        parity_share: chance.of(&[ParityShare::NONE, ParityShare::default()]),
        ..OpenOptions::default()
    }
}

pub(crate) fn effect(chance: &mut Chance) -> Effect {
    chance.of(&[Effect::Nothing, Effect::Half, Effect::Whole])
}

pub(crate) fn some_fault(chance: &mut Chance) -> Fault {
    let operation = chance.of(&[
        Operation::Write,
        Operation::Write,
        Operation::Sync,
        Operation::Sync,
        Operation::Create,
        Operation::Publish,
        Operation::Publish,
        Operation::Remove,
        Operation::Read,
        Operation::Read,
        Operation::List,
    ]);
    let reads = matches!(operation, Operation::Read | Operation::List);
    let nth = chance.below(if reads { 12 } else { 4 });
    match !reads && chance.one_in(3) {
        true => Fault::NoSpace { operation, nth },
        false => Fault::Fail { operation, nth },
    }
}

pub(crate) fn opening_fault(chance: &mut Chance) -> Fault {
    if chance.one_in(3) {
        return Fault::FullAfter {
            bytes: chance.of(&[0, 4_000, 10_000]),
        };
    }
    let operation = chance.of(&[
        Operation::Write,
        Operation::Sync,
        Operation::Read,
        Operation::Read,
        Operation::List,
        Operation::Remove,
    ]);
    let nth = chance.below(10);
    Fault::Fail { operation, nth }
}
