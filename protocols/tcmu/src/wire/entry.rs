//! Entries of the ring: what the kernel asks, and how it is answered.

use smallvec::SmallVec;

use super::abi;
use super::mailbox::Mailbox;
use super::memory::OutOfBounds;
use crate::error::RingError;

/// Where an entry is in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: u32,
    pub(crate) length: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing; it fills the ring to its end.
    Pad,
    /// A command.
    Command(RawCommand),
    /// Something that was done with commands.
    Management(RawManagement),
    /// Something that this side does not know.
    Unknown,
}

/// A command as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawCommand {
    pub(crate) id: u16,
    pub(crate) cdb: scsi::Cdb,
    /// Where its data is, or belongs.
    pub(crate) spans: Spans,
    /// Bytes of all spans.
    pub(crate) length_bytes: u64,
}

/// A task management function that the kernel has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawManagement {
    /// Whether a reset was it.
    pub(crate) is_reset: bool,
    /// The commands that were aborted by it.
    pub(crate) aborted: Vec<u16>,
}

/// A piece of the data area, within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) at: u64,
    pub(crate) length: u64,
}

/// The pieces of one command's data.
pub(crate) type Spans = SmallVec<[Span; 4]>;

/// How a command is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) id: u16,
    pub(crate) status: u8,
    pub(crate) sense: &'a [u8],
    /// How many bytes were read, if that is fewer than there was room for.
    pub(crate) read_bytes: Option<u32>,
}

impl Entry {
    /// Reads the entry at `at`, of which at most `room` bytes are the kernel's.
    pub(crate) fn read(mailbox: &Mailbox, at: u32, room: u32) -> Result<(Self, Place), RingError> {
        let (place, operation) = Place::read(mailbox, at, room)?;
        let entry = match operation {
            abi::OPERATION_PAD => Self::Pad,
            abi::OPERATION_COMMAND => Self::Command(RawCommand::read(mailbox, place)?),
            abi::OPERATION_MANAGEMENT => Self::Management(RawManagement::read(mailbox, place)?),
            _ => Self::Unknown,
        };
        Ok((entry, place))
    }
}

impl Place {
    /// The place of an entry, and what its operation is.
    fn read(mailbox: &Mailbox, at: u32, room: u32) -> Result<(Self, u32), RingError> {
        let none = RingError::Entry { at, length: 0 };
        let field = mailbox.at(at) + u64::from(abi::HEADER_LENGTH_AT);
        let word = mailbox.memory.u32(field).map_err(|_| none)?;
        let length = word & !abi::OPERATION_MASK;
        // The kernel fills the end of the ring with padding, so that no entry goes round it.
        let most = room.min(mailbox.ring_bytes() - at);
        if length < abi::HEADER_BYTES || length > most {
            return Err(RingError::Entry { at, length });
        }
        Ok((Self { at, length }, word & abi::OPERATION_MASK))
    }

    fn impossible(self) -> RingError {
        RingError::Entry {
            at: self.at,
            length: self.length,
        }
    }

    /// Where the entry ends in memory.
    fn end(self, mailbox: &Mailbox) -> u64 {
        mailbox.at(self.at) + u64::from(self.length)
    }

    /// Says that nobody here knows what the entry means.
    pub(crate) fn disclaim(self, mailbox: &Mailbox) {
        let flags = mailbox.at(self.at) + u64::from(abi::HEADER_FLAGS_AT);
        let unknown = [byte(abi::ANSWER_UNKNOWN_OPERATION)];
        mailbox
            .memory
            .copy_in(flags, &unknown)
            .expect("the head of an entry that was read is in the ring");
    }

    /// Writes an answer over the command that was here.
    pub(crate) fn answer(self, mailbox: &Mailbox, answer: &Answer<'_>) {
        let at = |field: u32| mailbox.at(self.at) + u64::from(field);
        let put = |field: u32, bytes: &[u8]| {
            mailbox
                .memory
                .copy_in(at(field), bytes)
                .expect("an entry that was read as a command has room for its answer");
        };
        let length = answer.read_bytes.filter(|_| mailbox.takes_length);
        let flags = length.map_or(0, |_| abi::ANSWER_READ_LENGTH);
        put(abi::HEADER_ID_AT, &answer.id.to_ne_bytes());
        put(abi::HEADER_FLAGS_AT, &[byte(flags)]);
        put(abi::ANSWER_STATUS_AT, &[answer.status]);
        put(abi::ANSWER_LENGTH_AT, &length.unwrap_or(0).to_ne_bytes());
        if !answer.sense.is_empty() {
            let mut sense = [0; abi::ANSWER_SENSE_BYTES as usize];
            for (to, from) in sense.iter_mut().zip(answer.sense) {
                *to = *from;
            }
            put(abi::ANSWER_SENSE_AT, &sense);
        }
    }
}

impl RawCommand {
    fn read(mailbox: &Mailbox, place: Place) -> Result<Self, RingError> {
        if place.length < abi::COMMAND_BYTES {
            return Err(place.impossible());
        }
        let at = |field: u32| mailbox.at(place.at) + u64::from(field);
        let torn = |_: OutOfBounds| place.impossible();
        let memory = &mailbox.memory;
        let id = memory.u16(at(abi::HEADER_ID_AT)).map_err(torn)?;
        let count = memory.u32(at(abi::COMMAND_VECTORS_AT)).map_err(torn)?;
        if count > (place.length - abi::COMMAND_VECTOR_AT) / abi::VECTOR_BYTES {
            return Err(place.impossible());
        }
        let cdb_at = memory.u64(at(abi::COMMAND_CDB_AT)).map_err(torn)?;
        let cdb = read_cdb(mailbox, place, cdb_at).ok_or(RingError::Cdb(place.at))?;
        let mut spans = Spans::new();
        let mut length_bytes = 0_u64;
        let data = RingError::Data(place.at);
        for number in 0..count {
            let vector = at(abi::COMMAND_VECTOR_AT) + u64::from(number * abi::VECTOR_BYTES);
            let base = memory.u64(vector).map_err(torn)?;
            let length = vector + u64::from(abi::VECTOR_LENGTH_AT);
            let length = memory.u64(length).map_err(torn)?;
            let end = base.checked_add(length).ok_or(data)?;
            if base < mailbox.data_at() || end > memory.length() {
                return Err(data);
            }
            length_bytes += length;
            // Pieces do not overlap, so all together are no longer than what they are pieces of.
            if length_bytes > memory.length() - mailbox.data_at() {
                return Err(data);
            }
            spans.push(Span { at: base, length });
        }
        Ok(Self {
            id,
            cdb,
            spans,
            length_bytes,
        })
    }
}

/// Reads the command that lies within its entry. What is behind its end is none of it.
fn read_cdb(mailbox: &Mailbox, place: Place, at: u64) -> Option<scsi::Cdb> {
    let begin = mailbox.at(place.at) + u64::from(abi::HEADER_BYTES);
    let room = place.end(mailbox).checked_sub(at)?;
    if at < begin || room == 0 {
        return None;
    }
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut bytes = [0; CDB_BYTES_MAX];
    let bytes = bytes.get_mut(..room.min(CDB_BYTES_MAX))?;
    mailbox.memory.copy_out(at, bytes).ok()?;
    let length = match bytes.first()? >> 5 {
        0 => 6,
        1 | 2 => 10,
        // One of a variable length says it: none is known here, and its opcode is enough to refuse it.
        3 => 8,
        4 => 16,
        5 => 12,
        _ => bytes.len(),
    };
    Some(scsi::Cdb::new(bytes.get(..length)?))
}

const CDB_BYTES_MAX: usize = 16;

impl RawManagement {
    fn read(mailbox: &Mailbox, place: Place) -> Result<Self, RingError> {
        let at = |field: u32| mailbox.at(place.at) + u64::from(field);
        let torn = |_: OutOfBounds| place.impossible();
        let ids_bytes = place
            .length
            .checked_sub(abi::MANAGEMENT_IDS_AT)
            .ok_or(place.impossible())?;
        let memory = &mailbox.memory;
        let function = memory.u8(at(abi::MANAGEMENT_FUNCTION_AT)).map_err(torn)?;
        let count = memory.u32(at(abi::MANAGEMENT_COUNT_AT)).map_err(torn)?;
        if count > ids_bytes / 2 {
            return Err(place.impossible());
        }
        let ids = (0..count).map(|number| memory.u16(at(abi::MANAGEMENT_IDS_AT + number * 2)));
        Ok(Self {
            is_reset: matches!(
                u32::from(function),
                abi::FUNCTION_LUN_RESET | abi::FUNCTION_WARM_RESET | abi::FUNCTION_COLD_RESET
            ),
            aborted: ids.collect::<Result<_, _>>().map_err(torn)?,
        })
    }
}

/// A flag of the header, all of which fit a byte.
fn byte(flag: u32) -> u8 {
    u8::try_from(flag).expect("flags of an entry fit a byte")
}
