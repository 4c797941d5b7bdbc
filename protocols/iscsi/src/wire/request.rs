//! PDUs of the initiator (RFC 7143, 11.3 to 11.18).

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{HEADER_LENGTH, Pdu, U24};

/// SCSI Command (11.3).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ScsiCommand {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub expected_length: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub cdb: [u8; 16],
}

impl ScsiCommand {
    /// Flag: the command reads.
    pub const READ: u8 = 0x40;
    /// Flag: the command writes.
    pub const WRITE: u8 = 0x20;
    /// Bits of the flags that hold the task attribute.
    pub const ATTRIBUTE: u8 = 0x07;
}

/// SCSI Data-Out (11.7).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataOut {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub reserved_2: U32,
    pub exp_stat_sn: U32,
    pub reserved_3: U32,
    pub data_sn: U32,
    pub buffer_offset: U32,
    pub reserved_4: U32,
}

/// Task Management Function Request (11.5).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TaskManagementRequest {
    pub opcode: u8,
    /// Final bit and the function.
    pub function: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub referenced_task_tag: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub ref_cmd_sn: U32,
    pub exp_data_sn: U32,
    pub reserved_2: [u8; 8],
}

/// NOP-Out (11.18).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NopOut {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved_2: [u8; 16],
}

/// Text Request (11.10).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TextRequest {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved_2: [u8; 16],
}

impl TextRequest {
    /// Flag: the text goes on in the next request.
    pub const CONTINUE: u8 = 0x40;
}

/// Login Request (11.12).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LoginRequest {
    pub opcode: u8,
    pub flags: u8,
    pub version_max: u8,
    pub version_min: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub isid: [u8; 6],
    pub tsih: U16,
    pub task_tag: U32,
    pub cid: U16,
    pub reserved: U16,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved_2: [u8; 16],
}

/// Flags of login requests and responses: transit, continue, and the two stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginFlags(pub u8);

impl LoginFlags {
    /// Whether the sender is ready to go to the next stage.
    pub fn transit(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// Whether the text goes on in the next PDU.
    pub fn is_continued(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// The stage that the PDU belongs to.
    pub fn current(self) -> u8 {
        self.0 >> 2 & 3
    }

    /// The stage that would follow.
    pub fn next(self) -> u8 {
        self.0 & 3
    }
}

/// Logout Request (11.14).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogoutRequest {
    pub opcode: u8,
    /// Final bit and the reason.
    pub reason: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub reserved_2: [u8; 8],
    pub task_tag: U32,
    pub cid: U16,
    pub reserved_3: U16,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved_4: [u8; 16],
}

/// SNACK Request (11.16).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Snack {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub reserved_2: U32,
    pub exp_stat_sn: U32,
    pub reserved_3: [u8; 8],
    pub begin: U32,
    pub run_length: U32,
}

/// What the additional header segments of a command hold (11.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdditionalHeaders<'a> {
    /// Bytes of the CDB behind the first sixteen.
    pub extended_cdb: &'a [u8],
    /// How much a command that reads and writes may read.
    pub read_length: Option<u32>,
}

/// Takes the additional header segments apart. `None` if they are not what the standard says.
pub fn additional_headers(mut bytes: &[u8]) -> Option<AdditionalHeaders<'_>> {
    let mut found = AdditionalHeaders::default();
    while !bytes.is_empty() {
        let (&[high, low, kind], rest) = bytes.split_first_chunk()?;
        // The length counts the byte behind the type, which both kinds reserve.
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (content, after) = rest.split_at_checked(length)?;
        match kind & 0x3f {
            EXTENDED_CDB if found.extended_cdb.is_empty() => {
                found.extended_cdb = content.get(1..)?;
            }
            READ_LENGTH if found.read_length.is_none() => {
                let length = content.get(1..)?.try_into().ok()?;
                found.read_length = Some(u32::from_be_bytes(length));
            }
            _ => return None,
        }
        bytes = after.get((length + 3).wrapping_neg() & 3..)?;
    }
    Some(found)
}

const EXTENDED_CDB: u8 = 1;
const READ_LENGTH: u8 = 2;

macro_rules! pdus {
    ($($name:ident),*) => {
        $(
            const _: () = assert!(size_of::<$name>() == HEADER_LENGTH);
            impl Pdu for $name {}
        )*
    };
}
pdus!(
    ScsiCommand,
    DataOut,
    TaskManagementRequest,
    NopOut,
    TextRequest,
    LoginRequest,
    LogoutRequest,
    Snack
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additional_headers_are_taken_apart() {
        let both = [0, 5, 2, 0, 0, 0, 16, 0, 0, 6, 1, 0, 1, 2, 3, 4, 5, 0, 0, 0];
        let found = additional_headers(&both).unwrap();
        assert_eq!(found.read_length, Some(4096));
        assert_eq!(found.extended_cdb, [1, 2, 3, 4, 5]);
        assert_eq!(additional_headers(&[]), Some(AdditionalHeaders::default()));
        for broken in [
            &[0, 5, 2, 0][..],
            &[0, 5, 9, 0, 0, 0, 0, 0],
            &[0, 0, 1, 0],
            &[0, 4, 2, 0, 0, 0, 0, 0],
            &[255, 255, 1, 0],
        ] {
            assert_eq!(additional_headers(broken), None, "{broken:?}");
        }
    }
}
