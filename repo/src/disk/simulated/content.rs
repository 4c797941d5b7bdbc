//! What a file holds: what was synced, and what was written since.

use super::chance::Chance;
use super::world::SECTOR_BYTES;

#[derive(Debug, Clone, Default)]
pub(super) struct FileContent {
    /// What no power failure takes.
    synced: Vec<u8>,
    /// What readers see.
    pub(super) current: Vec<u8>,
    /// What changed since the last sync, in order.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Length(usize),
}

/// What becomes of changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    LoseAll,
    KeepAll,
    /// The first so many of them, the last of these perhaps torn.
    KeepFirst,
    /// Any sectors of any of them.
    Mixed,
}

/// How many writes a power failure took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lost {
    pub(super) whole: u64,
    pub(super) torn: u64,
}

impl FileContent {
    pub(super) fn synced(content: Vec<u8>) -> Self {
        Self {
            synced: content.clone(),
            current: content,
            pending: Vec::new(),
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// Changes what lies on the medium behind everybody's back.
    pub(super) fn damage(&mut self, byte: usize, mask: u8) -> bool {
        // What was not synced yet counts as synced now, so that medium and memory hold the same wrong bit.
        self.sync();
        let Some(place) = self.synced.get_mut(byte) else {
            return false;
        };
        *place ^= mask;
        match self.current.get_mut(byte) {
            Some(place) => *place ^= mask,
            None => return false,
        }
        true
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.synced);
        }
    }

    /// Forgets what was to be written, but for some of it. `reads_show_it`: the page cache still has all; else readers
    /// see what is on the medium. Gives the number of changes that are lost.
    pub(super) fn drop_unsynced(&mut self, reads_show_it: bool, chance: &mut Chance) -> u64 {
        let mut dropped = 0;
        for change in std::mem::take(&mut self.pending) {
            if chance.below(2) == 0 {
                change.apply(&mut self.synced);
            } else {
                dropped += 1;
            }
        }
        if !reads_show_it {
            self.current.clone_from(&self.synced);
        }
        dropped
    }

    /// The cache forgets what it believes to be clean, so that readers see what is on the medium.
    pub(super) fn forget_clean(&mut self) {
        self.current.clone_from(&self.synced);
        for change in &self.pending {
            change.apply(&mut self.current);
        }
    }

    pub(super) fn lose_power(
        &mut self,
        fate: Fate,
        stale: &[Vec<u8>],
        chance: &mut Chance,
    ) -> Lost {
        let mut lost = Lost::default();
        let pending = std::mem::take(&mut self.pending);
        match fate {
            _ if pending.is_empty() => {}
            Fate::LoseAll => lost.whole = pending.len() as u64,
            Fate::KeepAll => pending
                .iter()
                .for_each(|change| change.apply(&mut self.synced)),
            Fate::KeepFirst => {
                let kept = chance.below(pending.len() + 1);
                lost.whole = (pending.len() - kept) as u64;
                let (first, rest) = pending.split_at(kept);
                first
                    .iter()
                    .for_each(|change| change.apply(&mut self.synced));
                if let Some(Change::Write { offset, bytes }) = rest.first() {
                    let mut bytes = bytes.clone();
                    bytes.truncate(chance.below(bytes.len() / SECTOR_BYTES + 1) * SECTOR_BYTES);
                    if !bytes.is_empty() {
                        (lost.whole, lost.torn) = (lost.whole - 1, 1);
                        Change::Write {
                            offset: *offset,
                            bytes,
                        }
                        .apply(&mut self.synced);
                    }
                }
            }
            Fate::Mixed => lost = self.mix(&pending, stale, chance),
        }
        self.current.clone_from(&self.synced);
        lost
    }

    /// Sector by sector: the state after some number of the changes. The length is chosen likewise.
    fn mix(&mut self, pending: &[Change], stale: &[Vec<u8>], chance: &mut Chance) -> Lost {
        let mut lost = Lost::default();
        let mut state = self.synced.clone();
        let mut lengths = vec![state.len()];
        let mut kept = self.synced.clone();
        for change in pending {
            change.apply(&mut state);
            lengths.push(state.len());
            let mut missing = 0;
            let sectors = change.sectors(&state);
            for (offset, bytes) in &sectors {
                let bytes = if chance.below(2) == 0 {
                    bytes.clone()
                } else {
                    missing += 1;
                    // A block that the file has never had before may hold anything.
                    match stale.get(chance.below(stale.len())) {
                        Some(old) if *offset >= self.synced.len() as u64 => {
                            old.get(..bytes.len()).unwrap_or_default().to_vec()
                        }
                        _ => continue,
                    }
                };
                Change::Write {
                    offset: *offset,
                    bytes,
                }
                .apply(&mut kept);
            }
            if missing > 0 && missing == sectors.len() {
                lost.whole += 1;
            } else if missing > 0 {
                lost.torn += 1;
            }
        }
        let length = lengths.get(chance.below(lengths.len())).copied();
        kept.resize(length.unwrap_or(0), 0);
        self.synced = kept;
        lost
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Write { offset, bytes } => {
                let Ok(start) = usize::try_from(*offset) else {
                    return;
                };
                let end = start + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(place) = content.get_mut(start..end) {
                    place.copy_from_slice(bytes);
                }
            }
        }
    }

    /// The sectors that the change touched, as `state` has them after it.
    fn sectors(&self, state: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let Self::Write { offset, bytes } = self else {
            return Vec::new();
        };
        let step = SECTOR_BYTES as u64;
        let end = offset + bytes.len() as u64;
        let first = offset - offset % step;
        let sector = |start: u64| {
            let from = usize::try_from(start).ok()?;
            let to = (from + SECTOR_BYTES).min(state.len());
            Some((start, state.get(from..to)?.to_vec()))
        };
        (first..end)
            .step_by(SECTOR_BYTES)
            .filter_map(sector)
            .collect()
    }
}
