//! Which parts of the disk the overlay has anything to say about: the inner nodes of its map.

use crate::checksum::crc32c;

/// Two bits for each of [`FAN_OUT`] parts of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    words: Box<[u64; WORDS]>,
    /// Sectors below it whose bytes are in the journal.
    pub(crate) live_sectors: u64,
}

/// What a part of the disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The point's content, all of it.
    Below,
    /// Zeroes that keep their space, all of it.
    Zero,
    /// Zeroes without space, all of it.
    Hole,
    /// See the page or node of that part.
    Child,
}

impl Node {
    pub(crate) fn uniform(state: State) -> Self {
        Self {
            words: Box::new([pattern(state); WORDS]),
            live_sectors: 0,
        }
    }

    pub(crate) fn state(&self, slot: u32) -> State {
        let word = self.words.get(index(slot)).copied().unwrap_or(0);
        match (word >> shift(slot)) & 3 {
            0 => State::Below,
            1 => State::Zero,
            2 => State::Hole,
            _ => State::Child,
        }
    }

    pub(crate) fn set(&mut self, slot: u32, state: State) {
        if let Some(word) = self.words.get_mut(index(slot)) {
            *word = *word & !(3 << shift(slot)) | (bits(state) << shift(slot));
        }
    }

    /// Number of slots from `slot` on in the state of that slot.
    pub(crate) fn run(&self, slot: u32) -> u32 {
        let state = self.state(slot);
        let all = pattern(state);
        let mut at = slot + 1;
        while at < FAN_OUT {
            let whole_word =
                at.is_multiple_of(SLOTS_PER_WORD) && self.words.get(index(at)) == Some(&all);
            match self.state(at) {
                _ if whole_word => at += SLOTS_PER_WORD,
                same if same == state => at += 1,
                _ => break,
            }
        }
        at - slot
    }

    pub(crate) fn weight(&self) -> usize {
        size_of::<[u64; WORDS]>()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![NODE_VERSION];
        out.extend(self.live_sectors.to_le_bytes());
        out.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        out.extend(crc32c(&out).to_le_bytes());
        out
    }

    /// Reads a node back; `None` if it is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, check) = bytes.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*check) != crc32c(content) {
            return None;
        }
        let (version, rest) = content.split_first()?;
        let (live, rest) = rest.split_first_chunk::<8>()?;
        if *version != NODE_VERSION || rest.len() != WORDS * 8 {
            return None;
        }
        let mut words = Box::new([0; WORDS]);
        for (word, bytes) in words.iter_mut().zip(rest.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(Self {
            words,
            live_sectors: u64::from_le_bytes(*live),
        })
    }
}

fn bits(state: State) -> u64 {
    match state {
        State::Below => 0,
        State::Zero => 1,
        State::Hole => 2,
        State::Child => 3,
    }
}

fn pattern(state: State) -> u64 {
    bits(state) * 0x5555_5555_5555_5555
}

fn index(slot: u32) -> usize {
    usize::try_from(slot / SLOTS_PER_WORD).unwrap_or(usize::MAX)
}

fn shift(slot: u32) -> u32 {
    slot % SLOTS_PER_WORD * 2
}

/// Parts of a node.
pub(crate) const FAN_OUT: u32 = 1024;

const SLOTS_PER_WORD: u32 = 32;
const WORDS: usize = 32;
const NODE_VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_keep_their_states_and_runs_end_where_they_change() {
        let mut node = Node::uniform(State::Hole);
        assert_eq!(node.run(5), 1019);
        node.set(100, State::Child);
        node.set(101, State::Child);
        node.set(700, State::Below);
        node.set(1023, State::Zero);
        assert_eq!(node.run(0), 100);
        assert_eq!(node.run(99), 1);
        assert_eq!(node.run(100), 2);
        assert_eq!(node.run(102), 598);
        assert_eq!(node.run(701), 322);
        assert_eq!(node.run(1023), 1);
        node.live_sectors = 77;
        let bytes = node.encode();
        assert_eq!(Node::decode(&bytes), Some(node));
        for byte in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 4;
            assert_eq!(Node::decode(&damaged), None);
        }
    }
}
