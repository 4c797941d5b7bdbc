//! What lies where in the file of a face.

use bytes::Bytes;

/// The regions of a file, in order and without gaps.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    regions: Vec<Region>,
    length: u64,
}

/// A stretch of the file.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) content: Content,
}

/// What a stretch of the file holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// These bytes, and zeroes behind them. They never change.
    Fixed(Bytes),
    /// These bytes, until whoever opens the file changes them. Such changes say that the file is in use, mean nothing
    /// to the disk, and are forgotten with the face.
    Scratch(Bytes),
    /// Entries that follow from their number.
    Table(Table),
    /// The disk from this offset on.
    Disk(u64),
    /// Zeroes that are never anything else.
    Empty,
}

/// A table of which no entry is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    /// Entries that are not zero end here.
    pub(crate) entries: u64,
    pub(crate) width: Width,
    pub(crate) value: Value,
}

/// How an entry is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Big16,
    Big64,
    Little32,
    Little64,
}

/// What an entry says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    /// Always the same.
    Same(u64),
    /// `first`, `first + step`, and so on.
    Steps { first: u64, step: u64 },
    /// As `Steps`, with a zero after each `every` entries.
    StepsWithGaps { first: u64, step: u64, every: u64 },
}

impl Layout {
    /// A file that is the disk.
    pub(crate) fn of_disk(size: u64) -> Self {
        let mut layout = Self::default();
        layout.push(size, Content::Disk(0));
        layout
    }

    /// Puts a region at the end.
    pub(crate) fn push(&mut self, length: u64, content: Content) {
        if length > 0 {
            self.regions.push(Region {
                start: self.length,
                length,
                content,
            });
            self.length += length;
        }
    }

    /// Fills up with zeroes to a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: u64) {
        let length = self.length.next_multiple_of(alignment) - self.length;
        self.push(length, Content::Empty);
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The regions that a range touches, each with the part of it that lies in the range, counted from the region's
    /// start.
    pub(crate) fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = Part<'_>> {
        let end = offset.saturating_add(length).min(self.length);
        let first = self
            .regions
            .partition_point(|region| region.end() <= offset);
        self.regions
            .iter()
            .enumerate()
            .skip(first)
            .take_while(move |(_, region)| region.start < end)
            .map(move |(number, region)| {
                let from = offset.max(region.start);
                Part {
                    number,
                    region,
                    offset: from - region.start,
                    length: end.min(region.end()) - from,
                }
            })
    }
}

/// A part of a region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) number: usize,
    pub(crate) region: &'a Region,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Region {
    fn end(&self) -> u64 {
        self.start + self.length
    }
}

impl Table {
    /// The bytes of the table from `offset` on.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let width = self.width.bytes() as u64;
        let mut bytes = Vec::with_capacity(length + 2 * self.width.bytes());
        let mut index = offset / width;
        let skip = usize::try_from(offset % width).unwrap_or(0);
        while bytes.len() < skip + length {
            self.width.write(self.entry(index), &mut bytes);
            index += 1;
        }
        bytes.truncate(skip + length);
        bytes.drain(..skip);
        bytes
    }

    fn entry(&self, index: u64) -> u64 {
        if index >= self.entries {
            return 0;
        }
        match self.value {
            Value::Same(value) => value,
            Value::Steps { first, step } => first + step * index,
            Value::StepsWithGaps { first, step, every } => match index % (every + 1) == every {
                true => 0,
                false => first + step * (index - index / (every + 1)),
            },
        }
    }
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Self::Big16 => 2,
            Self::Little32 => 4,
            Self::Big64 | Self::Little64 => 8,
        }
    }

    /// Entries are as long as their table's format says; what a value has above that is left out.
    fn write(self, value: u64, bytes: &mut Vec<u8>) {
        let [.., a, b, c, d, e, f, g, h] = value.to_be_bytes();
        match self {
            Self::Big16 => bytes.extend([g, h]),
            Self::Little32 => bytes.extend([h, g, f, e]),
            Self::Big64 => bytes.extend([a, b, c, d, e, f, g, h]),
            Self::Little64 => bytes.extend([h, g, f, e, d, c, b, a]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_same_read_at_once_or_in_odd_pieces() {
        for width in [Width::Big16, Width::Big64, Width::Little32, Width::Little64] {
            let table = Table {
                entries: 300,
                width,
                value: Value::StepsWithGaps {
                    first: 7,
                    step: 1000,
                    every: 4,
                },
            };
            let whole = table.bytes(0, 4000);
            for (offset, length) in [(0, 1), (1, 9), (13, 700), (2390, 40), (3999, 1)] {
                let part = &whole[offset..offset + length];
                assert_eq!(table.bytes(offset as u64, length), part, "{width:?}");
            }
        }
        let table = Table {
            entries: 7,
            width: Width::Little64,
            value: Value::StepsWithGaps {
                first: 10,
                step: 1,
                every: 3,
            },
        };
        let entries: Vec<u64> = (0..9).map(|index| table.entry(index)).collect();
        assert_eq!(entries, [10, 11, 12, 0, 13, 14, 15, 0, 0]);
    }

    #[test]
    fn a_range_is_cut_at_the_regions() {
        let mut layout = Layout::of_disk(1000);
        layout.push(0, Content::Empty);
        layout.align(512);
        layout.push(512, Content::Fixed(Bytes::from_static(b"x")));
        assert_eq!(layout.length(), 1536);
        let parts: Vec<_> = layout
            .parts(900, 10_000)
            .map(|part| (part.number, part.offset, part.length))
            .collect();
        assert_eq!(parts, [(0, 900, 100), (1, 0, 24), (2, 0, 512)]);
        assert_eq!(layout.parts(1536, 1).count(), 0);
    }
}
