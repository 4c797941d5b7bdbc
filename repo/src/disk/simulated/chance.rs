//! Choices that follow from a seed.

use super::content::Fate;

/// A small generator of choices (xorshift64*), the same everywhere for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

/// What a power failure does to files, and to names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fates {
    pub(super) files: Option<Fate>,
    pub(super) names: Option<Fate>,
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap_or(0) % bound.max(1)
    }

    /// All alike, or (`None`) each its own: data may be there and its name not, and the other way round.
    pub(super) fn fates(&mut self) -> Fates {
        let (files, names) = match self.below(10) {
            0 => (Some(Fate::LoseAll), Some(Fate::LoseAll)),
            1 => (Some(Fate::KeepAll), Some(Fate::KeepAll)),
            2 => (Some(Fate::LoseAll), Some(Fate::KeepAll)),
            3 => (Some(Fate::KeepAll), Some(Fate::LoseAll)),
            4 => (Some(Fate::KeepFirst), None),
            5 | 6 => (None, None),
            _ => (Some(Fate::Mixed), Some(Fate::Mixed)),
        };
        Fates { files, names }
    }

    pub(super) fn fate(&mut self, common: Option<Fate>) -> Fate {
        common.unwrap_or_else(|| match self.below(5) {
            0 => Fate::LoseAll,
            1 => Fate::KeepAll,
            2 => Fate::KeepFirst,
            _ => Fate::Mixed,
        })
    }

    pub(super) fn keeps(&mut self, fate: Fate) -> bool {
        match fate {
            Fate::LoseAll => false,
            Fate::KeepAll => true,
            Fate::KeepFirst | Fate::Mixed => self.below(2) == 0,
        }
    }
}
