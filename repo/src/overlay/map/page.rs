//! What one chunk of the disk is made of: the leaf of an overlay's map.

use std::ops::Range;

use super::node::State;
use crate::checksum::crc32c;
use crate::keys::TAG_BYTES;
use crate::overlay::format::{BLOCK_BYTES, BLOCK_SECTORS, Proofs};
use crate::overlay::keys::Seals;

/// The parts of one chunk that are the overlay's own, sorted, without overlap. Gaps are the point's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Page {
    pieces: Vec<Piece>,
}

/// Some sectors of a chunk that come from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    start: u8,
    sectors: u8,
    pub(crate) body: Body,
}

/// What sectors hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Zeroes that keep their space.
    Zero,
    /// Zeroes without space.
    Hole,
    /// What the point has from this sector of the disk on.
    PointFrom(u64),
    /// Bytes of the journal.
    Data(Place),
}

/// Where bytes lie in the journal, in whole blocks, each with its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    /// Where the first block starts in the segment.
    pub(crate) position: u64,
    /// Sectors of the first block that are not meant.
    skip: u8,
    /// Sectors in all blocks; the last may be short.
    covered: u8,
    proofs: PlaceProofs,
}

/// [`Proofs`] in little memory. One check is the usual case and needs none of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PlaceProofs {
    Check([u32; 1]),
    Checks(Box<[u32]>),
    Seals(Box<PlacedSeals>),
}

/// [`Seals`] that may be shown elsewhere on the disk than they were made for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PlacedSeals {
    seals: Seals,
    /// Where the first block lay on the disk when it was sealed, if it is shown elsewhere now.
    home: Option<u64>,
}

impl Place {
    /// Names a whole payload of `sectors` sectors.
    pub(crate) fn new(segment: u32, position: u64, sectors: u32, proofs: &Proofs) -> Self {
        Self {
            segment,
            position,
            skip: 0,
            covered: small(sectors),
            proofs: PlaceProofs::new(proofs),
        }
    }

    /// Names `sectors` of the sectors from the one numbered `from`.
    pub(crate) fn cut(&self, from: u32, sectors: u32) -> Self {
        let first = u32::from(self.skip) + from;
        let dropped = first / BLOCK_SECTORS;
        let skip = first % BLOCK_SECTORS;
        let blocks = (skip + sectors).div_ceil(BLOCK_SECTORS);
        let covered =
            (u32::from(self.covered) - dropped * BLOCK_SECTORS).min(blocks * BLOCK_SECTORS);
        let start = usize::try_from(dropped).unwrap_or(usize::MAX);
        let count = usize::try_from(blocks).unwrap_or(usize::MAX);
        Self {
            segment: self.segment,
            position: self.position + u64::from(dropped) * BLOCK_BYTES as u64,
            skip: small(skip),
            covered: small(covered),
            proofs: self.proofs.cut(start..start + count),
        }
    }

    /// The same, which is shown from `sector` of the disk on, to be shown elsewhere: it stays sealed for where it was first.
    pub(crate) fn keeping_seal(mut self, sector: u64) -> Self {
        let here = self.offset_at(sector);
        if let PlaceProofs::Seals(placed) = &mut self.proofs {
            placed.home = placed.home.or(Some(here));
        }
        self
    }

    /// The offset on the disk for which the first block was sealed, if it is shown from `sector` on.
    pub(crate) fn sealed_for(&self, sector: u64) -> u64 {
        match &self.proofs {
            PlaceProofs::Seals(placed) => placed.home.unwrap_or(self.offset_at(sector)),
            _ => self.offset_at(sector),
        }
    }

    /// Where the first block would lie. It may be before the disk for one that is shown elsewhere than it was written.
    fn offset_at(&self, sector: u64) -> u64 {
        (sector * 512).wrapping_sub(self.skip_bytes() as u64)
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.proofs.count()
    }

    /// What proves them, in order.
    pub(crate) fn proofs(&self) -> Proofs {
        match &self.proofs {
            PlaceProofs::Check(check) => Proofs::Checks(check.to_vec()),
            PlaceProofs::Checks(checks) => Proofs::Checks(checks.to_vec()),
            PlaceProofs::Seals(placed) => Proofs::Seals(placed.seals.clone()),
        }
    }

    /// Bytes before the meant ones in the first block.
    pub(crate) fn skip_bytes(&self) -> usize {
        usize::from(self.skip) * 512
    }

    /// Bytes of all blocks.
    pub(crate) fn covered_bytes(&self) -> usize {
        usize::from(self.covered) * 512
    }

    /// Where the last block ends in the segment.
    pub(crate) fn end(&self) -> u64 {
        self.position + self.covered_bytes() as u64
    }

    /// Whether the parts fit each other for a piece of that many sectors.
    fn is_sound(&self, sectors: u32) -> bool {
        let blocks = u32::from(self.covered).div_ceil(BLOCK_SECTORS);
        u32::from(self.skip) < BLOCK_SECTORS
            && u32::from(self.skip) + sectors <= u32::from(self.covered)
            && usize::try_from(blocks).is_ok_and(|blocks| blocks == self.blocks())
    }
}

impl PlaceProofs {
    fn new(proofs: &Proofs) -> Self {
        match proofs {
            Proofs::Checks(checks) => Self::of_checks(checks),
            Proofs::Seals(seals) => Self::Seals(Box::new(PlacedSeals {
                seals: seals.clone(),
                home: None,
            })),
        }
    }

    fn of_checks(checks: &[u32]) -> Self {
        match checks {
            [one] => Self::Check([*one]),
            many => Self::Checks(many.into()),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Check(_) => 1,
            Self::Checks(checks) => checks.len(),
            Self::Seals(placed) => placed.seals.tags.len(),
        }
    }

    /// Those of some of the blocks.
    fn cut(&self, blocks: Range<usize>) -> Self {
        match self {
            Self::Check(check) => Self::of_checks(check.get(blocks).unwrap_or_default()),
            Self::Checks(checks) => Self::of_checks(checks.get(blocks).unwrap_or_default()),
            Self::Seals(placed) => {
                let PlacedSeals { seals, home } = &**placed;
                let dropped = blocks.start as u64 * BLOCK_BYTES as u64;
                Self::Seals(Box::new(PlacedSeals {
                    seals: Seals {
                        salt: seals.salt,
                        tags: seals.tags.get(blocks).unwrap_or_default().to_vec(),
                    },
                    home: home.map(|home| home.saturating_add(dropped)),
                }))
            }
        }
    }

    /// Memory beside the value itself.
    fn weight(&self) -> usize {
        match self {
            Self::Check(_) => 0,
            Self::Checks(checks) => checks.len() * 4 + 16,
            Self::Seals(placed) => {
                size_of::<PlacedSeals>() + placed.seals.tags.capacity() * TAG_BYTES + 32
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Check(check) => out.extend(check.iter().flat_map(|check| check.to_le_bytes())),
            Self::Checks(checks) => out.extend(checks.iter().flat_map(|check| check.to_le_bytes())),
            Self::Seals(placed) => {
                out.extend(placed.home.into_iter().flat_map(u64::to_le_bytes));
                out.extend(placed.seals.salt);
                out.extend(placed.seals.tags.iter().flatten());
            }
        }
    }
}

impl Piece {
    pub(crate) fn start(&self) -> u32 {
        u32::from(self.start)
    }

    pub(crate) fn sectors(&self) -> u32 {
        u32::from(self.sectors)
    }

    pub(crate) fn end(&self) -> u32 {
        self.start() + self.sectors()
    }

    fn new(start: u32, sectors: u32, body: Body) -> Self {
        Self {
            start: small(start),
            sectors: small(sectors),
            body,
        }
    }

    /// The part of it within `[start, end)`, which must overlap it.
    fn within(&self, start: u32, end: u32) -> Self {
        let (start, end) = (start.max(self.start()), end.min(self.end()));
        let body = self
            .body
            .within(u64::from(start - self.start()), end - start);
        Self::new(start, end - start, body)
    }
}

impl Body {
    /// `sectors` sectors of it, from the one numbered `from`.
    pub(super) fn within(&self, from: u64, sectors: u32) -> Self {
        match self {
            Self::Zero | Self::Hole => self.clone(),
            Self::PointFrom(first) => Self::PointFrom(first + from),
            Self::Data(place) => {
                Self::Data(place.cut(u32::try_from(from).unwrap_or(u32::MAX), sectors))
            }
        }
    }

    /// Whether all sectors of it are the same.
    fn is_fill(&self) -> bool {
        matches!(self, Self::Zero | Self::Hole)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Zero => 1,
            Self::Hole => 2,
            Self::PointFrom(_) => POINT_FROM,
            Self::Data(place) => match &place.proofs {
                PlaceProofs::Seals(placed) if placed.home.is_some() => SEALED_ELSEWHERE,
                PlaceProofs::Seals(_) => SEALED_DATA,
                _ => DATA,
            },
        }
    }
}

impl Page {
    /// A chunk of `sectors` sectors that is all in one state.
    pub(crate) fn uniform(state: State, sectors: u32) -> Self {
        let pieces = match state {
            State::Zero => vec![Piece::new(0, sectors, Body::Zero)],
            State::Hole => vec![Piece::new(0, sectors, Body::Hole)],
            State::Below | State::Child => Vec::new(),
        };
        Self { pieces }
    }

    /// The state of a chunk of `sectors` sectors if it is the same everywhere and needs no page.
    pub(crate) fn state(&self, sectors: u32) -> State {
        match self.pieces.as_slice() {
            [] => State::Below,
            [
                Piece {
                    start: 0,
                    sectors: all,
                    body: Body::Zero,
                },
            ] if u32::from(*all) == sectors => State::Zero,
            [
                Piece {
                    start: 0,
                    sectors: all,
                    body: Body::Hole,
                },
            ] if u32::from(*all) == sectors => State::Hole,
            _ => State::Child,
        }
    }

    /// The pieces in order.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Sectors whose bytes are in the journal.
    pub(crate) fn live_sectors(&self) -> u64 {
        let data = |piece: &&Piece| matches!(piece.body, Body::Data(_));
        self.pieces
            .iter()
            .filter(data)
            .map(|piece| u64::from(piece.sectors()))
            .sum()
    }

    /// Puts new content over what was there.
    pub(crate) fn put(&mut self, start: u32, sectors: u32, body: Body) {
        if self.pieces.is_empty() {
            // Most pages never get a second piece.
            self.pieces = vec![Piece::new(start, sectors, body)];
            return;
        }
        let end = start + sectors;
        let mut first = self.pieces.partition_point(|piece| piece.end() <= start);
        let mut last = self.pieces.partition_point(|piece| piece.start() < end);
        let mut new = Piece::new(start, sectors, body);
        // Neighbours that touch and are the same kind of zeroes become one.
        if new.body.is_fill() {
            if first > 0
                && self
                    .pieces
                    .get(first - 1)
                    .is_some_and(|left| left.end() == start && left.body == new.body)
            {
                first -= 1;
            }
            if self
                .pieces
                .get(last)
                .is_some_and(|right| right.start() == end && right.body == new.body)
            {
                last += 1;
            }
        }
        let mut parts = Vec::with_capacity(3);
        if let Some(left) = self
            .pieces
            .get(first)
            .filter(|left| first < last && left.start() < start)
        {
            if left.body == new.body && new.body.is_fill() {
                new = Piece::new(left.start(), new.end() - left.start(), new.body);
            } else {
                parts.push(left.within(0, start));
            }
        }
        let right = last
            .checked_sub(1)
            .filter(|at| *at >= first)
            .and_then(|at| self.pieces.get(at));
        let right = right.filter(|right| right.end() > end);
        match right {
            Some(right) if right.body == new.body && new.body.is_fill() => {
                new = Piece::new(new.start(), right.end() - new.start(), new.body);
                parts.push(new);
            }
            Some(right) => {
                let rest = right.within(end, u32::from(u8::MAX));
                parts.push(new);
                parts.push(rest);
            }
            None => parts.push(new),
        }
        self.pieces.splice(first..last, parts);
    }

    /// Memory it takes, about.
    pub(crate) fn weight(&self) -> usize {
        let proofs = |piece: &Piece| match &piece.body {
            Body::Data(place) => place.proofs.weight(),
            Body::Zero | Body::Hole | Body::PointFrom(_) => 0,
        };
        let pieces = self.pieces.capacity() * size_of::<Piece>();
        pieces + self.pieces.iter().map(proofs).sum::<usize>()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![PAGE_VERSION];
        for piece in &self.pieces {
            out.extend([piece.body.kind(), piece.start, piece.sectors]);
            match &piece.body {
                Body::Zero | Body::Hole => {}
                Body::PointFrom(sector) => out.extend(sector.to_le_bytes()),
                Body::Data(place) => {
                    out.extend([place.skip, place.covered]);
                    out.extend(place.segment.to_le_bytes());
                    out.extend(place.position.to_le_bytes());
                    place.proofs.encode(&mut out);
                }
            }
        }
        out.extend(crc32c(&out).to_le_bytes());
        out
    }

    /// Reads a page back; `None` if it is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, check) = bytes.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*check) != crc32c(content) {
            return None;
        }
        let (version, mut rest) = content.split_first()?;
        if *version != PAGE_VERSION {
            return None;
        }
        let mut pieces: Vec<Piece> = Vec::new();
        while !rest.is_empty() {
            let ([kind, start, sectors], after) = rest.split_first_chunk::<3>()?;
            rest = after;
            let body = match kind {
                1 => Body::Zero,
                2 => Body::Hole,
                &POINT_FROM => {
                    let (sector, after) = rest.split_first_chunk::<8>()?;
                    rest = after;
                    let sector = u64::from_le_bytes(*sector);
                    Body::PointFrom((sector < SECTORS_MAX).then_some(sector)?)
                }
                &kind @ (DATA | SEALED_DATA | SEALED_ELSEWHERE) => {
                    Body::Data(decode_place(kind, &mut rest)?)
                }
                _ => return None,
            };
            let piece = Piece {
                start: *start,
                sectors: *sectors,
                body,
            };
            let sorted = pieces.last().is_none_or(|last| last.end() <= piece.start());
            let sound = match &piece.body {
                Body::Data(place) => place.is_sound(piece.sectors()),
                _ => true,
            };
            if !sorted || !sound || piece.sectors == 0 || piece.end() > super::CHUNK_SECTORS {
                return None;
            }
            pieces.push(piece);
        }
        Some(Self { pieces })
    }
}

fn decode_place(kind: u8, rest: &mut &[u8]) -> Option<Place> {
    let ([skip, covered], after) = rest.split_first_chunk::<2>()?;
    let (segment, after) = after.split_first_chunk::<4>()?;
    let (position, after) = after.split_first_chunk::<8>()?;
    let blocks = usize::try_from(u32::from(*covered).div_ceil(BLOCK_SECTORS)).ok()?;
    let (proofs, after) = if kind == DATA {
        let (checks, after) = after.split_at_checked(blocks * 4)?;
        let checks: Vec<u32> = checks
            .chunks_exact(4)
            .filter_map(|check| check.try_into().ok().map(u32::from_le_bytes))
            .collect();
        (PlaceProofs::of_checks(&checks), after)
    } else {
        let (home, after) = if kind == SEALED_ELSEWHERE {
            let (home, after) = after.split_first_chunk::<8>()?;
            (Some(u64::from_le_bytes(*home)), after)
        } else {
            (None, after)
        };
        let (salt, after) = after.split_first_chunk()?;
        let (tags, after) = after.split_at_checked(blocks * TAG_BYTES)?;
        let tags = tags.chunks_exact(TAG_BYTES);
        let seals = Seals {
            salt: *salt,
            tags: tags.filter_map(|tag| tag.try_into().ok()).collect(),
        };
        let placed = PlacedSeals { seals, home };
        (PlaceProofs::Seals(Box::new(placed)), after)
    };
    *rest = after;
    Some(Place {
        segment: u32::from_le_bytes(*segment),
        position: u64::from_le_bytes(*position),
        skip: *skip,
        covered: *covered,
        proofs,
    })
}

/// A number of sectors within one chunk, or of the sectors at its end.
fn small(sectors: u32) -> u8 {
    debug_assert!(sectors <= super::CHUNK_SECTORS);
    u8::try_from(sectors).unwrap_or(u8::MAX)
}

const PAGE_VERSION: u8 = 1;
const DATA: u8 = 3;
const SEALED_DATA: u8 = 4;
const POINT_FROM: u8 = 5;
const SEALED_ELSEWHERE: u8 = 6;

/// More sectors than any disk has.
const SECTORS_MAX: u64 = crate::image::IMAGE_BYTES_MAX / 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a sector holds, the simple way: zero, hole, or a sector of a numbered write.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Sector {
        Below,
        Zero,
        Hole,
        PointFrom(u64),
        Data {
            segment: u32,
            byte: u64,
            check: u32,
            salt: u8,
        },
    }

    fn flat(page: &Page) -> Vec<Sector> {
        let mut sectors = vec![Sector::Below; 128];
        for piece in page.pieces() {
            for at in piece.start()..piece.end() {
                sectors[at as usize] = match &piece.body {
                    Body::Zero => Sector::Zero,
                    Body::Hole => Sector::Hole,
                    Body::PointFrom(sector) => {
                        Sector::PointFrom(sector + u64::from(at - piece.start()))
                    }
                    Body::Data(place) => {
                        let sector = u32::from(place.skip) + at - piece.start();
                        let byte = place.position + u64::from(sector) * 512;
                        let (check, salt) = match place.proofs() {
                            Proofs::Checks(checks) => (checks[(sector / 8) as usize], 0),
                            Proofs::Seals(seals) => {
                                let tag = seals.tags[(sector / 8) as usize];
                                let check = tag[..4].try_into().unwrap();
                                (u32::from_le_bytes(check), seals.salt[15])
                            }
                        };
                        Sector::Data {
                            segment: place.segment,
                            byte,
                            check,
                            salt,
                        }
                    }
                };
            }
        }
        sectors
    }

    proptest! {
        #[test]
        fn a_page_is_what_was_put_last(puts in prop::collection::vec((0_u32..128, 1_u32..=128, 0..6_u8), 1..40)) {
            let mut page = Page::default();
            let mut model = vec![Sector::Below; 128];
            for (number, (start, sectors, kind)) in puts.into_iter().enumerate() {
                let sectors = sectors.min(128 - start);
                let segment = u32::try_from(number).unwrap();
                let checks: Vec<u32> = (0..sectors.div_ceil(8)).map(|block| segment * 100 + block).collect();
                let salt = if kind >= 3 { 9 } else { 0 };
                let tags = checks.iter().map(|check| {
                    let mut tag = [0; 16];
                    tag[..4].copy_from_slice(&check.to_le_bytes());
                    tag
                });
                let proofs = match kind {
                    3.. => Proofs::Seals(Seals { salt: [salt; 16], tags: tags.collect() }),
                    _ => Proofs::Checks(checks),
                };
                let body = match kind {
                    0 => Body::Zero,
                    1 => Body::Hole,
                    4 => Body::PointFrom(u64::from(segment) * 1000),
                    5 => Body::Data(Place::new(segment, 1000, sectors, &proofs).keeping_seal(777)),
                    _ => Body::Data(Place::new(segment, 1000, sectors, &proofs)),
                };
                page.put(start, sectors, body);
                for at in 0..sectors {
                    model[(start + at) as usize] = match kind {
                        0 => Sector::Zero,
                        1 => Sector::Hole,
                        4 => Sector::PointFrom(u64::from(segment) * 1000 + u64::from(at)),
                        _ => Sector::Data {
                            segment,
                            byte: 1000 + u64::from(at) * 512,
                            check: segment * 100 + at / 8,
                            salt,
                        },
                    };
                }
                prop_assert_eq!(flat(&page), model.clone());
                let pieces = page.pieces();
                prop_assert!(pieces.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
                let apart = |pair: &[Piece]| pair[0].end() < pair[1].start() || pair[0].body != pair[1].body;
                prop_assert!(pieces.windows(2).all(apart));
                let live = model.iter().filter(|sector| matches!(sector, Sector::Data { .. })).count();
                prop_assert_eq!(page.live_sectors(), live as u64);
                prop_assert_eq!(Page::decode(&page.encode()), Some(page.clone()));
            }
        }

        #[test]
        fn hostile_pages_are_refused_quietly(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            bytes.insert(0, PAGE_VERSION);
            bytes.extend(crc32c(&bytes).to_le_bytes());
            if let Some(page) = Page::decode(&bytes) {
                prop_assert!(page.pieces().iter().all(|piece| piece.end() <= 128));
            }
        }
    }

    #[test]
    fn a_damaged_page_is_refused() {
        let mut page = Page::default();
        page.put(
            3,
            9,
            Body::Data(Place::new(1, 128, 9, &Proofs::Checks(vec![5, 6]))),
        );
        page.put(20, 1, Body::Hole);
        let bytes = page.encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Page::decode(&damaged), None);
        }
    }
}
